"""One picture of a host: without a WebUI on a narrow checkpoint, in a WebUI on stand-ins; tests/webui has real ones."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train.blocks.bake import bake_sources, limit_of
from lora_train.blocks.families import SD15, blocks_of, weights_by_block
from lora_train.blocks.recipe import Item, Source
from lora_train.errors import UserError
from lora_train.grid.plan import Grid
from lora_train.host.base import Applied, Shot
from lora_train.host.standalone import StandaloneHost
from lora_train.host.webui import WebUIHost
from lora_train.model.load import load_model
from lora_train.network.kohya import write_lora
from lora_train.network.lora import LoraNetwork, LoraSpec, Size
from tests.blocks import loras
from tests.grid.conftest import write
from tests.support import Widths, checkpoint

SHOT = Shot("a thing", seed=5, steps=2, width=64, height=64)


def pixels(picture: Image.Image | None) -> bytes:
    assert picture is not None
    return picture.tobytes()


def largest_difference(one: Image.Image | None, other: Image.Image | None) -> int:
    first, second = (torch.frombuffer(bytearray(pixels(picture)), dtype=torch.uint8).int() for picture in (one, other))
    return int((first - second).abs().max())


# Without a WebUI


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint and LoRAs for it: a and b of layers of attention, conv of convolutions too."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("render")
    narrow = checkpoint(folder / "narrow.safetensors", Widths(text_layers=2))
    write(folder / "a.safetensors", load_model(narrow), rank=4, seed=1)
    write(folder / "b.safetensors", load_model(narrow), rank=2, seed=2)
    return folder


@pytest.fixture(scope="module")
def host(folder: Path) -> StandaloneHost:
    return StandaloneHost(folder / "narrow.safetensors", folder, folder / "data")


def test_a_block_that_moves_is_the_only_one_that_is_summed(host: StandaloneHost, folder: Path) -> None:
    a, b = Applied(folder / "a.safetensors", 0.5, 0.5), Applied(folder / "b.safetensors", -1.0, -0.5)
    bare = pixels(host.render(SHOT))
    both = pixels(host.render(replace(SHOT, loras=(a, b))))
    assert bare != both
    merged = host._merged
    assert merged is not None
    assert merged.apply((a, b)) == []
    moved = merged.apply((replace(a, weights={"OUT05": 0.3}), b))
    assert len(moved) == 12 and all("up_blocks_1_attentions_2" in name for name in moved)
    assert all("lora_te_" in name for name in merged.apply((replace(a, te=0.7, weights={"OUT05": 0.3}), b)))
    assert pixels(host.render(replace(SHOT, loras=(a, b)))) == both
    assert pixels(host.render(SHOT)) == bare


def test_live_is_baked(host: StandaloneHost, folder: Path) -> None:
    """The same seed with the baked file gives the same picture, but for the rounding of the file."""
    weights = {block: (n % 5 - 1) / 2 for n, block in enumerate(blocks_of(SD15))}
    sources = [
        Source(Item(name, strength), folder / f"{name}.safetensors", None, weights, SD15)
        for name, strength in (("a", 0.8), ("b", -1.0))
    ]
    out = folder / "baked" / "sum.safetensors"
    out.parent.mkdir()
    bake_sources(sources, out, limit_of(None, None, "fp16"), "fp16")
    live = (
        Applied(folder / "a.safetensors", 0.8, 0.8, weights),
        Applied(folder / "b.safetensors", -1.0, -1.0, weights),
    )
    drawn = host.render(replace(SHOT, loras=live))
    baked = host.render(replace(SHOT, loras=(Applied(out),)))
    assert largest_difference(drawn, baked) <= 2
    assert largest_difference(drawn, host.render(SHOT)) > 20


def test_it_is_what_a_grid_draws(host: StandaloneHost, folder: Path) -> None:
    a = folder / "a.safetensors"
    shot = replace(SHOT, sampler="Euler a", cfg_scale=3.0, negative_prompt="b", loras=(Applied(a, 0.5, 0.5),))
    grid = replace(shot.cell, loras=(str(a),), weights=(0.5,))
    sheet = host.draw(grid, lambda done, total, cell: None)
    assert largest_difference(host.render(shot), sheet.pages[0].cells[0][0]) <= 2
    assert shot.cell == Grid((), ("a thing",), sampler="Euler a", cfg_scale=3.0, negative_prompt="b", **_sizes())


def _sizes() -> dict[str, Any]:
    return {"seed": 5, "steps": 2, "width": 64, "height": 64, "clip_skip": 1}


def test_every_kind_of_lora(host: StandaloneHost, folder: Path) -> None:
    """As the layers which a training puts there change the weights."""
    model = load_model(folder / "narrow.safetensors")
    forms: dict[str, dict[str, Any]] = {
        "locon": {},
        "dora": {"dora": True},
        "loha": {"form": "loha"},
        "lokr": {"form": "lokr"},
    }
    for name, more in forms.items():
        network = LoraNetwork.create(model, LoraSpec(Size(2, 1), **more), seed=3)
        state = {
            key: value if "alpha" in key or "dora" in key else torch.randn_like(value) * 0.1
            for key, value in network.state_dict().items()
        }
        network.load(state)
        changes = {key: layer.change() for key, layer in network.layers.items()}
        network.remove()
        path = folder / "kinds" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_lora(path, state, {}, torch.float32)
        host.render(SHOT)
        merged = host._merged
        assert merged is not None
        before = {key: merged._layers[key].weight.clone() for key in changes}
        assert sorted(merged.apply((Applied(path),))) == sorted(changes)
        for key, change in changes.items():
            added = merged._layers[key].weight - before[key]
            assert torch.allclose(added, change, atol=1e-5), (name, key)
        merged.remove()
        assert all(torch.equal(merged._layers[key].weight, before[key]) for key in changes)


def test_what_stands_in_the_way(host: StandaloneHost, folder: Path, tmp_path: Path) -> None:
    bare = pixels(host.render(SHOT))
    cases = {
        "nor is there|no such|not there|isn't": Applied(folder / "none.safetensors"),
        "no block 'IN99'": Applied(folder / "a.safetensors", weights={"IN99": 1.0}),
        "finite": Applied(folder / "a.safetensors", weights={"IN01": float("nan")}),
        "are not in this checkpoint": Applied(_other(tmp_path / "xl.safetensors", {"lora_unet_x_y": (4, 4)})),
        r"has the shape \[8, 8, 1, 1\] where": Applied(
            _other(tmp_path / "wide.safetensors", {"lora_unet_mid_block_attentions_0_proj_in": (8, 8, 1, 1)})
        ),
    }
    for words, lora in cases.items():
        with pytest.raises(UserError, match=words):
            host.render(replace(SHOT, loras=(Applied(folder / "a.safetensors"), lora)))
        assert host.busy() == ""
    with pytest.raises(UserError, match="sampler"):
        host.render(replace(SHOT, sampler="none"))
    assert pixels(host.render(SHOT)) == bare


def _other(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    return loras.write(path, loras.state(shapes, 2))


def test_loras_in_the_prompt_itself(host: StandaloneHost, folder: Path) -> None:
    weights = weights_by_block([0.5, *[1.0] * 16])
    wanted = pixels(host.render(replace(SHOT, loras=(Applied(folder / "a.safetensors", 0.5, 0.5, weights),))))
    numbers = ",".join(["0.5", *["1"] * 16])
    assert pixels(host.render(replace(SHOT, prompt=f"a thing <lora:a:0.5:lbw={numbers}>"))) == wanted
    assert pixels(host.render(replace(SHOT, prompt="<lora:a:0.5:lbw=NONE> a thing"))) == pixels(host.render(SHOT))
    for tag, words in {"<lora:a:1:lbw=NOPE>": "no preset 'NOPE'", "<lora:gone:1>": "no LoRA 'gone'"}.items():
        with pytest.raises(UserError, match=words):
            host.render(replace(SHOT, prompt=tag))


def test_a_file_that_is_replaced_is_read_again(host: StandaloneHost, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "changing.safetensors"
    path.write_bytes((folder / "a.safetensors").read_bytes())
    first = pixels(host.render(replace(SHOT, loras=(Applied(path, 0.5, 0.5),))))
    state = {key: value * 0.7 if "up" in key else value for key, value in load_file(folder / "a.safetensors").items()}
    path.unlink()
    loras.write(path, state, {"new": "one"})
    assert pixels(host.render(replace(SHOT, loras=(Applied(path, 0.5, 0.5),)))) != first


def test_it_is_called_off_in_the_middle(host: StandaloneHost) -> None:
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert host.render(replace(SHOT, steps=20), third_time) is None
    assert len(asked) == 3
    host.render(SHOT)


def test_a_training_has_the_gpu(folder: Path) -> None:
    host = StandaloneHost(folder / "narrow.safetensors", folder, folder)
    with host.memory_for_training(), pytest.raises(UserError, match="a training has the GPU"):
        host.render(SHOT)


# In a WebUI


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """LoRAs in the folder of the stand-ins."""
    return tuple(loras.write(tmp_path / f"{name}.safetensors", loras.state(loras.modules(), 2)) for name in "ab")  # type: ignore[return-value]


@pytest.fixture
def jobs(webui: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the WebUI is given to draw, and the files in its LoRA folder at that time."""
    seen: list[Any] = []
    draw = webui.processing.process_images

    def watched(p: Any) -> Any:
        assert webui.call_queue.queue_lock.held
        assert webui.shared.state.job == "Train LoRA: a picture"
        seen.append((p, sorted(path.name for path in webui.folder.rglob("train-lora-*.safetensors"))))
        return draw(p)

    monkeypatch.setattr(webui.processing, "process_images", watched)
    return seen


EULER = replace(SHOT, sampler="Euler", clip_skip=2)


def test_the_webui_draws_it(webui: SimpleNamespace, jobs: list[Any], two: tuple[Path, Path]) -> None:
    webui.shared.cmd_opts.no_prompt_history = False
    picture = WebUIHost().render(replace(EULER, loras=(Applied(two[0], 0.5, -0.25), Applied(two[1]))))
    assert picture and picture.size == (64, 64)
    [(p, files)] = jobs
    assert (p.prompt, p.seed, p.steps) == ("a thing <lora:a:0.5:-0.25> <lora:b:1:1>", 5, 2)
    assert p.do_not_save_samples and p.do_not_save_grid and files == []
    assert webui.shared.cmd_opts.no_prompt_history is False
    assert (WebUIHost().busy(), webui.shared.state.interrupted) == ("", False)


@pytest.mark.parametrize("kind", ["webui", "forge"])
def test_where_blocks_have_no_weights_a_file_has_them(
    kind: str, request: pytest.FixtureRequest, jobs: list[Any], two: tuple[Path, Path], tmp_path: Path
) -> None:
    request.getfixturevalue(kind)
    weighted = (Applied(two[0], 0.5, 1.0, {"IN01": 0.25}), Applied(two[1]))
    for _ in range(2):
        WebUIHost().render(replace(EULER, loras=weighted))
    WebUIHost().render(replace(EULER, loras=(replace(weighted[0], weights={"IN01": 0.5}),)))
    (p, [name]), (again, [same]), (_, [other]) = jobs
    assert (name == same) and name != other
    assert (getattr(p, "scripts", None) is None) is (kind == "webui")  # reForge looks for a script of its own there
    assert p.prompt == again.prompt == f"a thing <lora:b:1:1> <lora:{Path(name).stem}:1:1>"
    assert not list(tmp_path.rglob("train-lora-*"))
    WebUIHost().render(replace(EULER, loras=(Applied(two[0], 0.0, 1.0, dict.fromkeys(blocks_of(SD15), 0.0)),)))
    assert jobs[-1][0].prompt == "a thing"


def test_the_webuis_prompt_itself(
    webui: SimpleNamespace, jobs: list[Any], two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"a": SimpleNamespace(filename=str(two[0]))}
    networks = SimpleNamespace(available_networks=known, available_network_aliases=known, list_available_networks=int)
    known_name = "lora_train.host.webui.xyz.known_name"
    monkeypatch.setattr(known_name, lambda path: path.stem)
    monkeypatch.setitem(sys.modules, "networks", networks)  # type: ignore[arg-type]
    WebUIHost().render(replace(EULER, prompt="x, <lora:a:1:lbw=INS>, <lora:b:0.5> y"))
    (p, [name]) = jobs[-1]
    assert p.prompt == f"x, , <lora:b:0.5> y <lora:{Path(name).stem}:1:1>"


def test_a_failure_leaves_nothing_behind(webui: SimpleNamespace, two: tuple[Path, Path], tmp_path: Path) -> None:
    def failing(p: Any) -> Any:
        raise ValueError("NaN in the Unet")

    webui.processing.process_images = failing
    with pytest.raises(UserError, match="couldn't draw this picture: NaN in the Unet"):
        WebUIHost().render(replace(EULER, loras=(Applied(two[0], weights={"IN01": 0.0}),)))
    assert not list(tmp_path.rglob("train-lora-*"))
    assert (WebUIHost().busy(), webui.call_queue.queue_lock.held) == ("", False)
    with pytest.raises(UserError, match="no sampler 'none'"):
        WebUIHost().render(replace(EULER, sampler="none"))
    with pytest.raises(UserError, match="no block 'IN99'"):
        WebUIHost().render(replace(EULER, loras=(Applied(two[0], weights={"IN99": 0.0}),)))


@pytest.mark.parametrize("before", [None, b"the user's own"])
def test_the_users_last_prompt_stays_the_last(webui: SimpleNamespace, before: bytes | None) -> None:
    """Also where the WebUI can't be told not to keep it."""
    history, draw = webui.folder / "params.txt", webui.processing.process_images
    if before:
        history.write_bytes(before)

    def keeping(p: Any) -> Any:
        if not getattr(webui.shared.cmd_opts, "no_prompt_history", False):
            history.write_text(p.prompt, encoding="utf-8")
        return draw(p)

    webui.processing.process_images = keeping
    for flag in (None, False, True):
        if flag is not None:
            webui.shared.cmd_opts.no_prompt_history = flag
        WebUIHost().render(EULER)
        assert (history.read_bytes() if history.is_file() else None) == before
        assert getattr(webui.shared.cmd_opts, "no_prompt_history", None) is flag


def test_it_is_called_off_in_the_webui(webui: SimpleNamespace) -> None:
    """By us, and by the WebUI's own button; a later job of the user's is none of ours."""
    begun = threading.Event()

    def slow(p: Any) -> Any:
        begun.set()
        for _ in range(200):
            if webui.shared.state.interrupted:
                break
            threading.Event().wait(0.02)
        return SimpleNamespace(images=[Image.new("RGB", (8, 8))])

    webui.processing.process_images = slow
    assert WebUIHost().render(EULER, begun.is_set) is None
    assert webui.shared.state.interrupted is False


def test_a_file_given_twice_acts_by_its_sum(webui: SimpleNamespace, jobs: list[Any], two: tuple[Path, Path]) -> None:
    lora = Applied(two[0], 0.5, 0.5, {"IN01": 2.0})
    WebUIHost().render(replace(EULER, loras=(lora, replace(lora, te=-0.5, unet=-0.5))))
    assert jobs[-1][0].prompt == "a thing"
