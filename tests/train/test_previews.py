"""Previews: sd-scripts' prompt files and file names, the WebUI's text in the picture; no failure ends a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image

from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion, load_model
from lora_train.model.sample import sample
from lora_train.network.lora import LoraNetwork
from lora_train.network.spec import spec_of
from lora_train.settings import TrainSettings
from lora_train.train.previews import Previews, Prompt, read_prompts
from lora_train.train.watch import BlowUp, Watch
from tests import support

PLAIN = Prompt("a fox", "", 64, 64, 30, 7.5, "DDIM", None)


def settings(prompts: object, **changes: object) -> TrainSettings:
    return TrainSettings(sample_prompts=str(prompts), resolution=(64, 64), output_name="run", **changes)  # type: ignore[arg-type]


def wrong(prompts: object) -> list[tuple[str | None, str]]:
    with pytest.raises(UserError) as caught:
        read_prompts(settings(prompts))
    return [(e.where, e.what) for e in getattr(caught.value, "errors", [caught.value])]


# Prompts


def test_every_option_of_a_line_is_read(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "# a comment\n\na fox, 1girl --n low quality, bad --w 514 --h 768 --d 7 --l 6.5 --s 12 --ss euler_a\na fox\n",
        encoding="utf-8-sig",
    )
    full = Prompt("a fox, 1girl", "low quality, bad", 512, 768, 12, 6.5, "Euler a", 7)
    assert read_prompts(settings(file)) == [full, PLAIN]
    assert read_prompts(settings(file.read_text(encoding="utf-8-sig"))) == [full, PLAIN]


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    full = Prompt("a fox", "bad", 512, 64, 12, 6.5, "DPM++ 2M", 7)
    toml = tmp_path / "p.toml"
    toml.write_text(
        '[prompt]\nnegative_prompt = "bad"\nscale = 6.5\nsample_steps = 12\nseed = 7\nsample_sampler = "dpmsolver++"\n'
        '[[prompt.subset]]\nprompt = "a fox"\nwidth = 512\n[[prompt.subset]]\nprompt = "a hen"\nsample_steps = 3\n'
    )
    first, second = read_prompts(settings(toml))
    assert first == full and (second.prompt, second.steps, second.negative_prompt) == ("a hen", 3, "bad")
    listed = tmp_path / "p.json"
    entry = {"prompt": "a fox", "negative_prompt": "bad", "width": 512, "scale": 6.5, "sample_steps": 12, "seed": 7}
    listed.write_text(json.dumps([{**entry, "sample_sampler": "dpmsolver"}, "a fox --d -1"]))
    assert read_prompts(settings(listed)) == [full, PLAIN]


def test_what_a_prompt_leaves_out_is_the_runs() -> None:
    run = TrainSettings(sample_prompts="a fox", resolution=(768, 516), sample_sampler="euler")
    assert read_prompts(run) == [Prompt("a fox", "", 768, 512, 30, 7.5, "Euler", None)]
    assert read_prompts(TrainSettings()) == []


def test_all_problems_are_told_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a --w 32 --s 2000\n# --w 1\nb --d x --ss pony\nc --ar 2:3\nd --l 1e999\ngood --g 3 --fs 2\n")
    assert wrong(file) == [
        (f"{file}:1", "width 32 is out of range"),
        (f"{file}:1", "sample_steps 2000 is out of range"),
        (f"{file}:3", "seed 'x' is not a whole number"),
        (f"{file}:3", "'pony' is not a sampler"),
        (f"{file}:4", "--ar is not an option of a prompt"),
        (f"{file}:5", "scale 1e999 is out of range"),
    ]
    listed = tmp_path / "p.json"
    listed.write_text('[{"prompt": 3, "width": 64.5}, 7, {"promt": "a"}]')
    assert [where for where, _ in wrong(listed)] == [f"{listed}: prompt {n}" for n in (1, 1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.json", "{", "can't be understood"),
        ("p.json", "{}", "there are no prompts"),
        ("p.toml", "a = 1", "there are no prompts"),
        ("p.toml", "[prompt", "can't be understood"),
        ("p.txt", "# nothing\n", "there is no prompt"),
        ("missing.txt", None, "there is no such file"),
        ("p.txt", "a\n" * 101, "101 prompts are too many"),
    ],
)
def test_files_that_give_no_prompts_say_why(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert said in wrong(tmp_path / name)[0][1]


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs", "Zs"]), min_size=1, max_size=9)
sentences = st.lists(words.filter(lambda word: not word.startswith(("-", "#"))), min_size=1, max_size=5).map(" ".join)


@given(sentences, sentences, st.integers(64, 4096), st.integers(0, 2**40), st.integers(1, 1000), st.floats(0, 100))
@effort(max_examples=60, deadline=None)
def test_a_line_that_is_written_is_read_again(
    prompt: str, negative: str, width: int, seed: int, steps: int, scale: float
) -> None:
    line = f"{prompt} --n {negative} --w {width} --d {seed} --s {steps} --l {scale!r}"
    expected = Prompt(prompt, negative, width // 8 * 8, 64, steps, scale, "DDIM", seed)
    assert read_prompts(settings(line + "\n")) == [expected]


@given(st.text(max_size=60))
@effort(max_examples=150, deadline=None)
def test_any_text_gives_prompts_or_a_users_error(text: str) -> None:
    try:
        found = read_prompts(settings("x\n" + text))
    except UserError:
        return
    assert found[0].prompt == "x"


# Pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return load_model(support.checkpoint(tmp_path_factory.mktemp("previews") / "narrow.safetensors"))


@pytest.fixture(scope="module")
def network(model: StableDiffusion) -> LoraNetwork:
    made = LoraNetwork.create(model, spec_of(TrainSettings(network_dim=2, network_dropout=0.5), Family.SD15), 0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(0.02)
    return made


@pytest.fixture
def previews(model: StableDiffusion, network: LoraNetwork, tmp_path: Path) -> Callable[..., Previews]:
    def make(prompts: str = "a fox --s 2", **changes: object) -> Previews:
        warned: list[str] = []
        options = {"watch": changes.pop("watch", None)}
        run = settings(prompts, output_dir=str(tmp_path), clip_skip=2, **changes)
        made = Previews(run, model, network, warn=warned.append, **options)  # type: ignore[arg-type]
        made.warned = warned  # type: ignore[attr-defined]
        return made

    return make


def test_pictures_are_named_as_in_sd_scripts_and_hold_their_parameters(
    previews: Callable[..., Previews], model: StableDiffusion, tmp_path: Path
) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    some = previews("a fox, 狐 --n bad --s 2 --d 5 --l 3\na hen --s 1 --ss euler", seed=9)
    files = some.draw(3, 60)
    assert some.warned == [] and torch.equal(torch.get_rng_state(), before)  # type: ignore[attr-defined]
    assert re.fullmatch(r"run_e000003_00_\d{14}_5\.png", files[0].name)
    assert re.fullmatch(r"run_e000003_01_\d{14}\.png", files[1].name)
    assert sorted((tmp_path / "sample").iterdir()) == files
    with Image.open(files[0]) as first, Image.open(files[1]) as second:
        assert first.text["parameters"] == (  # type: ignore[attr-defined]
            "a fox, 狐\nNegative prompt: bad\n"
            "Steps: 2, Sampler: DDIM, CFG scale: 3, Seed: 5, Size: 64x64, Model: narrow, Clip skip: 2"
        )
        assert "Steps: 1, Sampler: Euler, CFG scale: 7.5, Seed: 9" in second.text["parameters"]  # type: ignore[attr-defined]
        again = sample(
            model, "a fox, 狐", "bad", seed=5, steps=2, cfg_scale=3, sampler="DDIM", width=64, height=64, clip_skip=2
        )
        assert first.tobytes() != again.tobytes()  # the training's dropout is on again; none disturbed the preview
    assert previews("a fox --s 1 --d 5").draw(None, 60)[0].name.startswith("run_000060_00_")
    assert previews("a fox --s 1 --d 5").draw(0, 0)[0].name.startswith("run_e000000_00_")


def test_the_same_weights_give_the_same_picture_and_v_prediction_another(previews: Callable[..., Previews]) -> None:
    def pixels(**changes: object) -> bytes:
        with Image.open(previews("a fox --s 1", **changes).draw(1, 1)[0]) as image:
            return image.tobytes()

    assert pixels() == pixels()
    assert pixels(v_parameterization=True) != pixels() and pixels(mixed_precision="bf16") != pixels()


def test_when_they_are_due(previews: Callable[..., Previews]) -> None:
    by_epoch = previews(sample_every_n_epochs=2, sample_every_n_steps=5, sample_at_first=True)
    assert by_epoch.due(None, 0) and by_epoch.due(4, 40)
    assert not by_epoch.due(3, 40) and not by_epoch.due(None, 10)
    by_step = previews(sample_every_n_steps=5)
    assert by_step.due(None, 10) and not by_step.due(1, 10) and not by_step.due(None, 11) and not by_step.due(None, 0)
    assert not previews("", sample_at_first=True).due(None, 0) and not previews().due(1, 1)


def test_a_disk_that_refuses_is_a_warning(previews: Callable[..., Previews], tmp_path: Path) -> None:
    (tmp_path / "sample").write_text("a file, where the folder should be")
    some = previews("a fox --s 1")
    assert some.draw(1, 1) == some.draw(2, 2) == []
    assert all("preview 1 could not be drawn" in text for text in some.warned)  # type: ignore[attr-defined]


def test_one_prompt_that_fails_leaves_the_others(
    previews: Callable[..., Previews], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = previews("a fox --s 1\na hen --s 1")
    monkeypatch.setattr(some, "prompts", [Prompt("", "", 63, 64, 1, 1.0, "DDIM", None), *some.prompts])
    assert [path.name[12:14] for path in some.draw(1, 1)] == ["01", "02"]
    some.draw(2, 2)
    (warning,) = some.warned  # type: ignore[attr-defined]
    assert "preview 1 could not be drawn: width: 63" in warning


def test_black_pictures_reach_the_watch(previews: Callable[..., Previews], model: StableDiffusion) -> None:
    watch = Watch(TrainSettings())
    some = previews("a fox --s 1", watch=watch)
    assert len(some.draw(1, 2)) == 1
    bias = model.vae.decoder.conv_out.bias
    kept = bias.detach().clone()
    try:
        bias.data.fill_(float("nan"))
        assert len(some.draw(2, 4)) == 1
    finally:
        bias.data.copy_(kept)
    with pytest.raises(BlowUp, match="previews became black"):
        watch.check(0.1, 1.0)


def test_prompts_that_cant_be_drawn_are_told_at_once(previews: Callable[..., Previews]) -> None:
    with pytest.raises(UserError, match="is not a sampler"):
        previews("a fox --ss pony")
