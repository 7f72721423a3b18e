"""The workbench of the step Blocks in a real browser: columns, presets, tries, advice, bake."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lora_train.blocks import edit, families, presets
from lora_train.grid import record
from lora_train.grid.plan import Grid
from lora_train.grid.sheet import Sheet
from lora_train.grid.sheet import page as sheet_page
from lora_train.jobs.record import Record
from lora_train.network.kohya import write_lora

pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

VIEW = "#train_lora_blocks_view"
GP1, GP2 = presets.BUILTIN["GP1"], presets.BUILTIN["GP2"]
LAYERS = ("attn2.to_k.weight", "attn2.to_v.weight", "self_attn.q_proj.weight")


@pytest.fixture(scope="module")
def loras(work: Path, checkpoint: Path) -> Path:
    """LoRAs that fit the checkpoint: Test0 and Base with the 17 blocks, Conv with convolutions too."""
    folder = work / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("Base", "Test0", "Conv")):
        state = _state(checkpoint, number, (*LAYERS, "in_layers.2.weight") if name == "Conv" else LAYERS)
        write_lora(folder / f"{name}.safetensors", state, {"ss_base_model_version": "sd_v1"}, torch.float16)
    return folder


def _state(checkpoint: Path, seed: int, endings: tuple[str, ...]) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    with safe_open(checkpoint, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            if not key.endswith(endings) or not key.startswith(("model.diffusion", "cond_stage")):
                continue
            out, row, *window = file.get_slice(key).get_shape()
            prefix = "lora_unet_" if key.startswith("model") else "lora_te_"
            tail = key.removeprefix("model.diffusion_model.").removeprefix("cond_stage_model.transformer.")
            name = prefix + tail.removesuffix(".weight").replace(".", "_")
            state[f"{name}.lora_up.weight"] = torch.randn((out, 2, *(1 for _ in window)), generator=g) / 8
            state[f"{name}.lora_down.weight"] = torch.randn((2, row, *window), generator=g) / 8
            state[f"{name}.alpha"] = torch.tensor(2.0)
    return state


@pytest.fixture
def bench(loras: Path, shared_page: Any) -> Any:
    """The open page at the step Blocks with nothing in the mix."""
    return emptied(shared_page)


@pytest.fixture
def refusals(_shared: Any) -> Iterator[None]:
    """For tests whose requests are refused: the browser writes each refusal to its console."""
    yield
    pages, _ = _shared
    pages.bad[:] = [line for line in pages.bad if " 422 " not in line and " 409 " not in line]


def emptied(page: Any) -> Any:
    page.wait_for_function("() => trainLora.step('blocks')", timeout=30_000)
    page.wait_for_function("() => trainLora.blocks.state.ready", timeout=30_000)
    page.evaluate(
        """() => {
          const { blocks } = trainLora;
          Object.assign(blocks.state, { locks: {}, origins: {}, unlisted: 0, wide: false });
          const scene = { prompt: "a", prompts: [], seeds: [1], steps: 1, width: 64, height: 64 };
          Object.assign(blocks.state.mix.shot, scene);
          blocks.replace("", { loras: [] });
          blocks.boards.live = false;
          blocks.done.length = blocks.undone.length = 0;
          return blocks.loadFiles();
        }"""
    )
    page.locator(f"{VIEW} .train-lora-blocks-start").wait_for(timeout=10_000)
    return page


def choose(page: Any, name: str) -> None:
    page.locator(f"{VIEW} .train-lora-blocks-start").get_by_role("listitem").filter(has_text=name).click()
    page.locator(f"{VIEW} .train-lora-blocks-strip", has_text=name).wait_for(timeout=10_000)
    page.wait_for_function("name => trainLora.blocks.detail(name)", arg=name, timeout=10_000)


def add(page: Any, name: str) -> None:
    page.locator(VIEW).get_by_role("button", name="+ Add a LoRA").click()
    page.locator(f"{VIEW} .train-lora-blocks-loras").get_by_role("listitem").filter(has_text=name).click()
    page.locator(f"{VIEW} .train-lora-blocks-strip", has_text=name).wait_for(timeout=10_000)


def numbers(page: Any) -> list[float]:
    """Of the LoRA in front, as the page shows them."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    text = page.get_by_label("All numbers of this LoRA").input_value()
    return [float(number) for number in text.split(",")]


def said(page: Any) -> str:
    """All that the step says now."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    text: str = page.locator(VIEW).inner_text()
    return text


def column(page: Any, block: str) -> Any:
    return page.get_by_role("slider", name=block, exact=True)


def middle(page: Any, block: str, value: float) -> tuple[float, float]:
    """Where a value of a column is on the screen."""
    box = column(page, block).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] * (2 - value) / 3


def wait(page: Any, condition: str, seconds: float = 60) -> None:
    page.wait_for_function(condition, timeout=1000 * seconds)


def test_columns_numbers_and_text_are_one(bench) -> None:
    choose(bench, "Test0")
    assert numbers(bench) == [1.0] * 17
    x, y = middle(bench, "OUT03", 0.5)
    bench.mouse.move(x, y)
    bench.mouse.down()
    bench.mouse.move(*middle(bench, "OUT07", 1.3))
    bench.mouse.up()
    assert numbers(bench)[8:13] == [0.5, 0.7, 0.9, 1.1, 1.3]
    assert column(bench, "OUT05").get_attribute("aria-valuenow") == "0.9"

    bench.mouse.click(*middle(bench, "IN01", 0.5), button="right")
    bench.mouse.dblclick(*middle(bench, "IN02", 1.8))
    assert numbers(bench)[1:3] == [0, 1]
    column(bench, "M00").focus()
    for key in ("ArrowDown", "Shift+ArrowDown", "ArrowRight", "PageUp"):
        bench.keyboard.press(key)
    assert numbers(bench)[7:9] == [0.94, 0.75]
    bench.get_by_label("Weight of BASE").fill("2.75")
    assert numbers(bench)[0] == 2.75
    text = bench.get_by_label("All numbers of this LoRA")
    text.fill("MINE:" + ",".join(map(str, GP1)))
    text.press("Enter")
    assert numbers(bench) == list(GP1)
    text.fill("1,2,three")
    assert "number 3, is not a number" in said(bench)
    text.fill(",".join(["0.5"] * 16))
    assert "16 numbers. It takes 17 or 26." in said(bench)
    text.press("Escape")
    assert numbers(bench) == list(GP1)

    bench.locator(".train-lora-blocks-names [data-block=BASE]").click()  # locked
    bench.get_by_role("button", name="All 0").click()
    assert numbers(bench) == [1.0, *[0.0] * 16]
    column(bench, "IN01").focus()
    bench.keyboard.press("Control+z")
    assert numbers(bench) == list(GP1)
    bench.keyboard.press("Control+y")
    assert numbers(bench) == [1.0, *[0.0] * 16]


@pytest.mark.one_gradio
def test_numbers_follow_the_rules_of_the_package(bench) -> None:
    """edit.py on the server's side and the page's own calculation give the same."""
    rng = random.Random(5)
    names = families.topology("SD1.5").blocks
    partners = families.topology("SD1.5").partners
    cases = []
    for _ in range(30):
        weights, other = (
            dict(zip(names, (round(rng.uniform(-1.6, 2.6), 3) for _ in names), strict=True)) for _ in range(2)
        )
        by, locked = round(rng.uniform(-1, 1), 2), rng.sample(names, 3)
        points = [(rng.randint(0, 16), round(rng.uniform(-1, 2), 2)) for _ in range(rng.randint(1, 6))]
        cases.append([weights, other, by, locked, points])
    ours = bench.evaluate(
        """([cases, partners]) => {
          const { rules } = trainLora.blocks;
          return cases.map(([weights, other, by, locked, points]) => {
            const names = Object.keys(weights), locks = new Set(locked);
            return [rules.shift(weights, names, by, locks), rules.scale(weights, names, by, 1, locks),
              rules.invert(weights, names, locks), rules.mirror(weights, partners, locks),
              rules.blend(weights, other, by, locks), rules.difference(weights, other), rules.through(points, 17),
              names.map(name => rules.snap(weights[name])), names.map(name => rules.nudge(weights[name], 1))];
          });
        }""",
        [cases, partners],
    )
    for (weights, other, by, locked, points), told in zip(cases, ours, strict=True):
        expected = [
            edit.shift(weights, names, by, locked=locked),
            edit.scale(weights, names, by, 1, locked=locked),
            edit.invert(weights, names, locked=locked),
            edit.mirror(weights, locked=locked),
            edit.blend(weights, other, by, locked),
            edit.difference(weights, other),
            list(edit.through(points, 17)),
            [edit.SLIDER.snap(weights[name]) for name in names],
            [edit.SLIDER.nudge(weights[name], 1) for name in names],
        ]
        assert told == expected


def test_two_loras_presets_and_text(bench, refusals) -> None:
    choose(bench, "Test0")
    bench.locator(".train-lora-blocks-chip", has_text="GP1").first.click()
    add(bench, "Base")
    bench.locator(".train-lora-blocks-chip[data-name=GP2]").click()
    bench.locator(".train-lora-blocks-strip", has_text="Base").get_by_label("Strength", exact=True).fill("-1")
    assert numbers(bench) == list(GP2)
    assert bench.locator(".train-lora-blocks-lines path[data-kind=behind]").count() == 1

    told = bench.evaluate("() => trainLora.post('blocks/text', { mix: trainLora.blocks.told() })")
    assert told["recipe"] == "Test0:1:GP1,Base:-1:GP2"
    column(bench, "OUT11").focus()
    bench.keyboard.press("ArrowUp")
    assert "GP2, 1 block changed" in said(bench)
    assert bench.get_by_label("Weight of OUT11").get_attribute("title") == "GP2: 0.2"
    bench.get_by_role("button", name="Save as preset …").click()
    name = f"MINE{time.time_ns()}"
    bench.get_by_label("Name of the preset").fill(name)
    bench.keyboard.press("Enter")
    bench.locator(f".train-lora-blocks-chip[data-name={name}][aria-pressed=true]").wait_for(timeout=10_000)
    file = Path(bench.evaluate("() => trainLora.blocks.state.presets.file"))
    assert f"{name}:" + presets.format_numbers((*GP2[:-1], 0.25)) in file.read_text()
    bench.get_by_role("button", name="Remove", exact=True).first.click()
    bench.locator(f".train-lora-blocks-chip[data-name={name}]").wait_for(state="detached", timeout=10_000)

    bench.get_by_role("button", name="Paste …").click()
    area = bench.get_by_label("What to paste")
    area.fill("Test0:1:GP9")
    bench.get_by_role("button", name="Put it in").click()
    bench.get_by_text("there is no preset 'GP9'").wait_for(timeout=10_000)
    area.fill("a girl <lora:Test0:0.5:0.75:lbw=OUTD>, <lora:Base:-1>")
    bench.get_by_role("button", name="Put it in").click()
    wait(
        bench, "() => trainLora.blocks.state.mix.loras.length === 2 && trainLora.blocks.state.mix.loras[0].unet === .75"
    )
    first, second = bench.evaluate("() => trainLora.blocks.state.mix.loras")
    assert (first["te"], first["weights"]["OUT03"], first["weights"]["OUT11"]) == (0.5, 1, 0)
    assert set(second["weights"].values()) == {1}


@pytest.mark.one_gradio
def test_blocks_that_a_short_list_does_not_name(bench) -> None:
    choose(bench, "Conv")
    assert len(numbers(bench)) == 26
    assert "convolutions, in 5 blocks that a list of 17 numbers doesn't name" in said(bench)
    text = bench.get_by_label("All numbers of this LoRA")
    text.fill(",".join(["0.5"] * 17))
    weights = "() => trainLora.blocks.active().weights"
    assert bench.evaluate(weights)["IN10"] == 0
    bench.get_by_label("Blocks that a short list doesn't name").select_option("1")
    text.fill(",".join(["0.6"] * 17))
    assert bench.evaluate(weights)["IN10"] == 1
    choose_group = bench.locator(".train-lora-blocks-handle[data-group='8']")
    choose_group.focus()
    bench.keyboard.press("ArrowUp")
    moved = bench.evaluate(weights)
    assert (moved["IN10"], moved["M00"], moved["OUT00"], moved["OUT03"]) == (1.05, 0.65, 1.05, 0.6)


def test_tries_are_drawn_kept_and_branch(bench) -> None:
    choose(bench, "Test0")
    bench.get_by_role("button", name="Draw the picture").click()
    cards = bench.locator(".train-lora-blocks-try")
    count = "n => trainLora.blocks.boards.board && trainLora.blocks.boards.board.tries.length === n"
    bench.wait_for_function(count, arg=1, timeout=90_000)
    bench.wait_for_function("() => document.querySelector('.train-lora-blocks-frame img[src]')?.naturalWidth === 64")
    bench.get_by_role("switch").check()
    column(bench, "OUT05").focus()
    bench.keyboard.press("PageDown")
    bench.wait_for_function(count, arg=2, timeout=90_000)
    bench.get_by_role("switch").uncheck()
    cards.nth(1).get_by_text("OUT05 1→0.75").wait_for(timeout=10_000)

    cards.nth(0).click()
    assert numbers(bench) == [1.0] * 17
    column(bench, "BASE").focus()
    bench.keyboard.press("PageDown")
    bench.get_by_role("button", name="Draw the picture").click()
    bench.wait_for_function(count, arg=3, timeout=90_000)
    tries = bench.evaluate("() => trainLora.blocks.boards.board.tries.map(one => [one.id, one.parent])")
    assert [parent for _, parent in tries] == [None, tries[0][0], tries[0][0]]
    wait(bench, "() => document.querySelectorAll('.train-lora-blocks-try').length === 3")
    assert cards.nth(2).bounding_box()["y"] > cards.nth(1).bounding_box()["y"]

    bench.get_by_role("button", name="☆ Star").click()
    bench.get_by_label("A note to this try").fill("better <b>")
    bench.keyboard.press("Tab")
    wait(bench, "() => document.querySelectorAll('.train-lora-blocks-try')[2].innerText.includes('better <b>')")
    assert "★" in cards.nth(2).inner_text()
    cards.nth(0).click(modifiers=["Shift"])
    compare = bench.locator(".train-lora-blocks-compare")
    compare.get_by_text("Same seed, 1.").wait_for(timeout=10_000)
    compare.get_by_role("button", name="Blink").click()
    wait(bench, "() => document.querySelector('.train-lora-blocks-badge').textContent === 'A'")
    compare.get_by_role("button", name="Side by side").click()
    wait(bench, "() => document.querySelector('.train-lora-blocks-canvas').dataset.mode === 'side'")
    left, right = (bench.locator(".train-lora-blocks-frame").nth(n).bounding_box() for n in range(2))
    assert left["x"] + left["width"] <= right["x"] + 1
    compare.get_by_role("button", name="End comparing").click()

    bench.locator(".train-lora-blocks-history").get_by_role("button", name="Remove").click()
    bench.wait_for_function(count, arg=2, timeout=10_000)
    bench.locator(".train-lora-blocks-history").get_by_role("button", name="Put it back").click()
    bench.wait_for_function(count, arg=3, timeout=10_000)


def test_several_prompts_are_drawn_with_every_seed(bench) -> None:
    choose(bench, "Test0")
    bench.evaluate("() => trainLora.blocks.boards.leave()")
    choose(bench, "Test0")
    look = bench.locator(".train-lora-blocks-look")
    look.get_by_label("Seeds").fill("1, 2")
    look.get_by_role("button", name="+ Another prompt").click()
    look.get_by_label("Prompt 2").wait_for(timeout=10_000)
    assert look.get_by_role("button", name="+ Another prompt").is_disabled()
    look.get_by_label("Prompt 2").fill("b,\nwith a line break")
    look.get_by_role("button", name="+ Another prompt").click()
    look.get_by_label("Prompt 3").fill("c")
    look.get_by_text("6 pictures a try").wait_for(timeout=10_000)
    look.get_by_label("Seeds").fill("1, 2, 3, 4, 5, 6")
    look.get_by_text("18 pictures are too many for one try").wait_for(timeout=10_000)
    assert look.get_by_role("button", name="Draw the picture").is_disabled()
    look.get_by_label("Seeds").fill("1, 2")
    look.get_by_role("button", name="Draw the picture").click()
    done = "n => trainLora.blocks.boards.board?.tries.length === n"
    bench.wait_for_function(done, arg=1, timeout=90_000)
    shot = bench.evaluate("() => trainLora.blocks.boards.board.tries[0].mix.shot")
    assert (shot["prompt"], shot["prompts"], shot["seeds"]) == ("a", ["b,\nwith a line break", "c"], [1, 2])
    thumbs = look.locator(".train-lora-blocks-thumbs button")
    wait(bench, "() => document.querySelectorAll('.train-lora-blocks-thumbs img').length === 6")
    assert bench.locator(".train-lora-blocks-try span").inner_text() == "1 ×6"
    thumbs.nth(5).click()
    look.get_by_text("Seed 2: c").wait_for(timeout=10_000)

    look.get_by_role("button", name="Take this prompt out").first.click()  # the next try has c at another place
    bench.evaluate("() => trainLora.blocks.setWeights({ ...trainLora.blocks.active().weights, OUT05: 0 }, '')")
    look.get_by_role("button", name="Draw the picture").click()
    bench.wait_for_function(done, arg=2, timeout=90_000)
    wait(bench, "() => document.querySelectorAll('.train-lora-blocks-thumbs img').length === 4")
    thumbs.nth(3).click()
    bench.locator(".train-lora-blocks-try").nth(0).click(modifiers=["Shift"])
    look.get_by_text("Same seed, 2.").wait_for(timeout=10_000)
    first = look.locator(".train-lora-blocks-frame img").nth(0)
    assert first.get_attribute("src").endswith("/1/5.png")
    bench.locator(".train-lora-blocks-try").nth(0).click()
    look.get_by_text("Seed 2: c").wait_for(timeout=10_000)
    assert look.get_by_label("Prompt 3").input_value() == "c"


@pytest.mark.one_gradio
def test_advice_is_drawn_applied_and_taken_back(bench) -> None:
    bench.evaluate("() => { trainLora.blocks.boards.tryNow = () => {} }")
    choose(bench, "Test0")
    advice = bench.locator(".train-lora-blocks-advice")
    advice.get_by_role("button", name="Limbs deformed").click()
    advice.get_by_text("Test0: BASE 1 → 0.9").wait_for(timeout=10_000)
    assert bench.locator(".train-lora-blocks-column s[data-kind=proposal]:visible").count() == 1
    assert numbers(bench) == [1.0] * 17
    advice.get_by_label("How far each block is moved").select_option("0.2")
    advice.get_by_text("Test0: BASE 1 → 0.8").wait_for(timeout=10_000)
    advice.get_by_role("button", name="Apply and look").click()
    assert numbers(bench) == [0.8, *[1.0] * 16]
    advice.get_by_role("button", name="Not enough: next step").click()
    advice.get_by_text("Step 2 of 2").wait_for(timeout=10_000)
    advice.get_by_role("button", name="Apply and look").click()
    assert numbers(bench)[5:11] == [0.8] * 6
    advice.get_by_role("button", name="Undo").click()
    assert numbers(bench) == [0.8, *[1.0] * 16]


@pytest.mark.one_gradio
def test_what_is_measured_is_shown_below_the_columns(bench) -> None:
    choose(bench, "Test0")
    add(bench, "Base")
    bench.locator(".train-lora-blocks-strip", has_text="Base").get_by_label("Strength", exact=True).fill("-1")
    bench.locator("[data-fold=measures] > summary").click()
    measuring = bench.locator(".train-lora-blocks-measuring")
    measuring.get_by_role("button", name="Compare", exact=True).click()
    measuring.get_by_text("Test0 beside Base:").wait_for(timeout=30_000)
    meters = bench.locator(".train-lora-blocks-meter")
    assert meters.evaluate_all("all => all.map(one => one.dataset.key)") == ["size", "cosine"]
    verdict = "() => document.querySelector('.train-lora-blocks-meter[data-key=cosine] i').dataset.verdict"
    assert bench.evaluate(verdict) == "noise"
    bench.get_by_label("Weight of BASE").fill("0")
    wait(bench, f"() => ({verdict})() === 'nothing'")  # judged by the package again
    bench.get_by_label("Weight of BASE").fill("1")

    measuring.get_by_label("Each LoRA on its own, too").check()
    measuring.get_by_role("button", name="Measure", exact=True).click()
    measuring.get_by_text("Base alone: most from").wait_for(timeout=240_000)
    keys = meters.evaluate_all("all => all.map(one => one.dataset.key)")
    assert keys == ["effect", "effect 0", "effect 1", "size", "cosine"]
    bench.get_by_role("button", name="OUT05, Base").hover()
    heat = bench.locator(".train-lora-blocks-heat").nth(1)
    heat.wait_for(timeout=10_000)
    assert heat.get_attribute("src").endswith("/maps/OUT05-2.png")
    assert bench.evaluate("async src => (await fetch(src)).status", heat.get_attribute("src")) == 200
    bench.get_by_text("Where Base, OUT05 acts").wait_for(timeout=10_000)
    assert "Measured with other numbers" not in measuring.inner_text()
    bench.get_by_label("Weight of OUT05").fill("0.5")
    measuring.get_by_text("Measured with other numbers").wait_for(timeout=10_000)


@pytest.mark.one_gradio
def test_a_bake_keeps_its_recipe(bench, refusals, loras) -> None:
    choose(bench, "Test0")
    bench.locator(".train-lora-blocks-chip[data-name=GP1]").click()
    add(bench, "Base")
    bench.locator(".train-lora-blocks-strip", has_text="Base").get_by_label("Strength", exact=True).fill("-1")
    bench.locator("[data-fold=bake] > summary").click()
    bakery = bench.locator(".train-lora-blocks-bakery")
    bakery.get_by_label("Name").first.fill("my mix")
    bakery.get_by_role("button", name="Bake", exact=True).click()
    bakery.get_by_text("my mix is written.").wait_for(timeout=30_000)
    assert "OUT11" in bakery.locator("table").inner_text()
    with safe_open(loras / "my mix.safetensors", "pt") as file:
        assert "Test0:1:GP1,Base:-1" in json.dumps(file.metadata())
    bakery.get_by_role("button", name="Bake", exact=True).click()
    bakery.get_by_text("there is a file of this name").wait_for(timeout=10_000)

    bakery.get_by_text("Open the recipe of a file that was baked here").click()
    listed = bakery.locator("details[open] .train-lora-blocks-file b")
    listed.first.wait_for(timeout=10_000)
    assert listed.all_inner_texts() == ["my mix"]
    emptied(bench)
    bench.locator(".train-lora-blocks-start").get_by_role("listitem").filter(has_text="my mix").click()
    bench.get_by_role("button", name="Open its recipe").click()
    wait(bench, "() => trainLora.blocks.state.mix.loras.length === 2")
    mix = bench.evaluate("() => trainLora.blocks.told().loras.map(one => [one.name, one.unet, one.preset])")
    assert mix == [["Test0", 1, "GP1"], ["Base", -1, None]]


@pytest.mark.one_gradio
def test_a_finger_in_a_narrow_window(loras, new_page) -> None:
    page = emptied(new_page(width=360, height=800, has_touch=True, is_mobile=True))
    choose(page, "Test0")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    column(page, "OUT05").scroll_into_view_if_needed()
    page.touchscreen.tap(*middle(page, "OUT05", 0.5))
    assert numbers(page)[10] == pytest.approx(0.5, abs=0.051)
    one = page.locator(".train-lora-blocks-one")
    assert "OUT05" in one.inner_text()
    one.get_by_role("button", name="0", exact=True).tap()
    assert numbers(page)[10] == 0
    for button in one.get_by_role("button").all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


@pytest.mark.one_gradio
def test_the_grids_cell_opens_here(bench, loras, work) -> None:
    cell = {"row": 0, "column": 1, "page": 0, "job": _grid(work, loras)}
    bench.evaluate(
        "detail => document.dispatchEvent(new CustomEvent('train-lora:open-blocks', { detail }))",
        cell,
    )
    wait(bench, "() => trainLora.blocks.boards.board?.tries[0]?.label === 'grid' && trainLora.blocks.active()")
    mix = bench.evaluate("() => trainLora.blocks.told()")
    assert [(one["name"], one["unet"]) for one in mix["loras"]] == [("Test0", 0.75)]
    assert (mix["shot"]["prompt"], mix["shot"]["seeds"], mix["shot"]["width"]) == ("hina, smile", [7], 64)
    wait(bench, "() => document.querySelector('.train-lora-blocks-frame img[src]')?.naturalWidth === 64")


def _grid(work: Path, loras: Path) -> str:
    """A drawn grid of one epoch and two weights; its job's id."""
    job = f"grid-{time.time_ns()}"
    folder = work / "data" / "jobs" / job
    folder.mkdir(parents=True)
    grid = Grid(
        (str(loras / "Test0.safetensors"),), ("hina, smile",), (0.5, 0.75), seed=7, width=64, height=64, steps=1
    )
    cells = [[Image.new("RGB", (64, 64), (9, 99, 199))] * 2]
    record.save(folder, grid, Sheet((sheet_page(grid, 0, cells),)), name="hina", checkpoint="mini")
    (folder / "record.json").write_text(
        json.dumps(asdict(Record(job, "hina", "mini", state="done", created=time.time())))
    )
    return job
