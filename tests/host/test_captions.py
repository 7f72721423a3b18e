"""deepbooru and BLIP of a WebUI, against stand-ins; tests/webui/test_host.py asks the real deepbooru."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lora_train.errors import UserError
from lora_train.host.base import Captioner, TagOptions, find_captioner
from lora_train.host.webui import WebUIHost, captions


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Redder and redder."""
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for n, path in enumerate(paths):
        Image.new("RGB", (20, 10), (60 * n, 200, 100)).save(path)
    return paths


def tag(captioner: Captioner, pictures: list[Path], options: TagOptions | None = None) -> list[str]:
    made = captioner.tag(pictures, options or TagOptions(), lambda *told: None, threading.Event())
    assert not made.problems
    return [made.captions[picture] for picture in pictures]


@pytest.fixture
def deepbooru(webui: SimpleNamespace) -> Captioner:
    return find_captioner(WebUIHost(), "deepbooru")


@pytest.fixture
def blip(webui: SimpleNamespace) -> Captioner:
    return find_captioner(WebUIHost(), "blip")


def test_tags_by_the_options_of_the_call(webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]) -> None:
    settings = copy.deepcopy(vars(webui.shared.opts))
    assert tag(deepbooru, pictures[-1:], TagOptions(threshold=0.5)) == ["1girl, red hair"]
    assert tag(deepbooru, pictures[:1], TagOptions(threshold=0.0)) == ["red hair, smile (person), 1girl"]
    assert vars(webui.shared.opts) == settings


def test_batches_under_the_queue(webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]) -> None:
    net: list[object] = []

    def on_done(done: int, total: int, picture: Path, caption: str) -> None:
        assert webui.call_queue.queue_lock.held
        assert webui.shared.state.job == "Train LoRA: deepbooru"
        net[:] = [webui.deepbooru.model.model]

    deepbooru.tag(pictures, TagOptions(batch_size=2), on_done, threading.Event())
    [used] = net
    assert used.batches == [2, 2, 1]  # type: ignore[attr-defined]
    assert not webui.call_queue.queue_lock.held
    assert webui.shared.state.job == ""


def test_drawing_gets_its_turn(
    webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that has passed the turn's end after its first batch."""
    now = iter(range(0, 1000, 3))
    monkeypatch.setattr(captions.time, "monotonic", lambda: next(now))
    assert len(tag(deepbooru, pictures, TagOptions(batch_size=1))) == 5
    assert webui.deepbooru.model.calls.count("start") == 5
    assert webui.deepbooru.model.calls.count("load") == 1  # the file is read once all the same


def test_what_is_in_memory_afterwards_is_what_was_before(
    webui: SimpleNamespace, deepbooru: Captioner, blip: Captioner, pictures: list[Path]
) -> None:
    danbooru, interrogator = webui.deepbooru.model, webui.shared.interrogator
    tag(deepbooru, pictures)
    tag(blip, pictures)
    assert (danbooru.model, interrogator.blip_model) == (None, None)
    assert danbooru.calls == ["load", "start", "stop"]
    assert interrogator.calls == ["unload"]
    danbooru.load()
    kept = danbooru.model
    tag(deepbooru, pictures)
    assert danbooru.model is kept
    danbooru.model = None
    webui.shared.opts.interrogate_keep_models_in_memory = True
    tag(deepbooru, pictures)
    tag(blip, pictures)
    assert danbooru.model is not None
    assert interrogator.blip_model is not None


def test_stopping_here_and_in_the_webui(webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]) -> None:
    stop = threading.Event()
    made = deepbooru.tag(pictures, TagOptions(batch_size=2), lambda *told: stop.set(), stop)
    assert (made.stopped, list(made.captions)) == (True, pictures[:2])
    stop.clear()
    made = deepbooru.tag(pictures, TagOptions(batch_size=1), lambda *told: webui.shared.state.interrupt(), stop)
    assert (made.stopped, list(made.captions)) == (True, pictures[:1])
    assert stop.is_set()
    assert webui.shared.state.interrupted is False


def test_what_on_done_raises_ends_it(webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]) -> None:
    def on_done(*told: object) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        deepbooru.tag(pictures, TagOptions(), on_done, threading.Event())
    assert not webui.call_queue.queue_lock.held
    assert webui.deepbooru.model.model is None


def test_no_model_and_no_connection(webui: SimpleNamespace, deepbooru: Captioner, blip: Captioner) -> None:
    for captioner, folder, name in (
        (deepbooru, "torch_deepdanbooru", "model-resnet_custom_v3.pt"),
        (blip, "BLIP", "model_base_caption_capfilt_large.pth"),
    ):
        assert captioner.note() == ""
        for file in (webui.folder / folder).iterdir():
            file.unlink()
        assert str(webui.folder / folder) in captioner.note()
        with pytest.raises(UserError, match=f"can't be downloaded. Put {name} there, from https") as caught:
            tag(captioner, [webui.folder / "x.png"])
        assert caught.value.where == str(webui.folder / folder)
    assert webui.deepbooru.model.model is None


def test_a_damaged_model_is_named_each_time(webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]) -> None:
    """The WebUI keeps a net without tags then, and finds nothing in any picture."""
    [file] = (webui.folder / "torch_deepdanbooru").iterdir()
    file.write_bytes(b"junk")
    for _ in range(2):
        with pytest.raises(UserError, match="it is damaged or another") as caught:
            tag(deepbooru, pictures)
        assert caught.value.where == str(file)
    file.write_bytes(b"")
    assert all(tag(deepbooru, pictures))


def test_a_damaged_model_that_forge_has_renamed(
    webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]
) -> None:
    [file] = (webui.folder / "torch_deepdanbooru").iterdir()
    file.rename(f"{file}.corrupted")
    with pytest.raises(
        UserError, match=rf"renamed it to {file.name}\.corrupted\. Replace it by model-resnet"
    ) as caught:
        tag(deepbooru, pictures)
    assert caught.value.where == str(file)


def test_blips_other_parts_are_named(webui: SimpleNamespace, blip: Captioner, pictures: list[Path]) -> None:
    def fail(error: Exception) -> None:
        raise error

    interrogator = webui.shared.interrogator
    interrogator.load_blip_model = lambda: fail(ModuleNotFoundError("No module named 'models.blip'"))
    with pytest.raises(UserError, match="code isn't there"):
        tag(blip, pictures)
    interrogator.load_blip_model = lambda: fail(OSError("Can't load tokenizer for 'bert-base-uncased'"))
    with pytest.raises(UserError, match="vocabulary of bert-base-uncased"):
        tag(blip, pictures)
    assert interrogator.blip_model is None


def test_blip_is_asked_as_the_call_says(webui: SimpleNamespace, blip: Captioner, pictures: list[Path]) -> None:
    [caption] = tag(blip, pictures[:1], TagOptions(beams=3, min_length=7, max_length=20))
    assert caption == "a picture, {'num_beams': 3, 'min_length': 7, 'max_length': 20}"


def test_too_little_memory(webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path]) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    webui.images.resize_image = fail
    with pytest.raises(UserError, match=r"batch_size: the GPU's memory isn't enough for 4 pictures"):
        tag(deepbooru, pictures)
    with pytest.raises(UserError, match="Close other programs"):
        tag(deepbooru, pictures, TagOptions(batch_size=1))


def test_lowvram_gives_way(
    webui: SimpleNamespace, deepbooru: Captioner, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    lowvram = SimpleNamespace(send_everything_to_cpu=lambda: moved.append("away"))
    monkeypatch.setitem(__import__("sys").modules, "modules.lowvram", lowvram)
    tag(deepbooru, pictures)
    assert moved == ["away"]


def test_forge_moves_its_models_itself_and_keeps_them(forge: SimpleNamespace, pictures: list[Path]) -> None:
    host = WebUIHost()
    assert all(tag(find_captioner(host, "deepbooru"), pictures))
    assert all(tag(find_captioner(host, "blip"), pictures))
    assert forge.deepbooru.model.model is not None
    assert forge.memory.calls == [("load", ("patcher", "BlipNet"))]


def test_classic_has_none(classic: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"Forge 2.0.1 has no captioner\. Write the captions by hand"):
        find_captioner(WebUIHost(), "deepbooru")
