"""What every host promises. Each check takes a host and a folder of its own; no pytest: a WebUI's Python has none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from lora_train.errors import UserError
from lora_train.host.base import Applied, Host, Shot, TagOptions, find_captioner

KNOWN = {"captions:deepbooru", "captions:blip", "upscale", "grid", "render", "live", "narrow", "choose"}


def refusal(action: Callable[[], object]) -> UserError:
    """The UserError that `action` raises; it says what to do."""
    try:
        action()
    except UserError as error:
        assert error.remedy, error
        return error
    raise AssertionError("nothing was raised")


def _hear(seen: list[tuple[int, int, Path, str]], done: int, total: int, picture: Path, caption: str) -> None:
    seen.append((done, total, picture, caption))


def it_says_what_it_is(host: Host, folder: Path) -> None:
    assert host.name
    assert host.name == host.name.strip()
    assert isinstance(host.capabilities(), frozenset)
    assert host.capabilities() <= KNOWN
    assert host.language() in ("", "en", "zh-CN")
    assert host.restricted() in (True, False)
    assert all(isinstance(text, str) for pair in host.environment().items() for text in pair)
    assert host.busy() == ""


def its_places_are_absolute_or_as_given(host: Host, folder: Path) -> None:
    for place in (host.lora_dir(), host.data_dir()):
        assert isinstance(place, Path)
        assert str(place)


def its_checkpoint_is_one_of_its_checkpoints(host: Host, folder: Path) -> None:
    chosen, known = host.checkpoint(), host.checkpoints()
    assert chosen is None or chosen.path in [entry.path for entry in known]
    for entry in known:
        assert entry.title
        assert entry.path.is_file()
        assert entry.clip_skip >= 1
        assert entry.vae is None or entry.vae.is_file()


def its_captioners_are_its_capabilities(host: Host, folder: Path) -> None:
    names = [captioner.name for captioner in host.captioners()]
    assert len(set(names)) == len(names)
    assert {f"captions:{name}" for name in names} == {c for c in host.capabilities() if c.startswith("captions:")}
    for captioner in host.captioners():
        assert captioner.kind in ("tags", "sentence")
        assert captioner.title
        assert find_captioner(host, captioner.name).title == captioner.title
    problem = refusal(lambda: find_captioner(host, "no such one"))
    assert problem.where == "captioner"
    assert host.name in problem.what
    assert all(name in problem.remedy for name in names)


def its_captioners_caption(host: Host, folder: Path) -> None:
    """Those whose model is there."""
    paths = [folder / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        Image.new("RGB", (40, 30), (80 * n, 90, 200)).save(path)
    paths[1].write_bytes(b"no picture")
    for captioner in [c for c in host.captioners() if not c.note()]:
        seen: list[tuple[int, int, Path, str]] = []
        options = TagOptions(threshold=0.0, batch_size=2, max_length=8, min_length=2)
        made = captioner.tag(paths, options, partial(_hear, seen), threading.Event())
        assert not made.stopped
        assert sorted(made.captions) == [paths[0], paths[2]]
        assert [problem.where for problem in made.problems] == [str(paths[1])]
        assert [(done, total, path) for done, total, path, _ in seen] == [
            (n + 1, 3, path) for n, path in enumerate(paths)
        ]
        assert {path: text for *_, path, text in seen if path != paths[1]} == made.captions
        assert all(made.captions.values()), made.captions
        stopped = threading.Event()
        stopped.set()
        assert captioner.tag(paths, options, lambda *told: None, stopped).captions == {}
        assert host.busy() == ""


def it_upscales_to_the_size_asked_for(host: Host, folder: Path) -> None:
    picture = Image.linear_gradient("L").resize((52, 36)).convert("RGBA")
    assert "Lanczos" in host.upscalers()
    assert ("upscale" in host.capabilities()) == (len(host.upscalers()) > 1)
    for size in ((52, 36), (26, 18), (123, 85), (60, 200), (30, 90)):
        made = host.upscale(picture, "Lanczos", *size)
        assert (made.mode, made.size) == ("RGB", size)
    problem = refusal(lambda: host.upscale(picture, "no such one", 100, 100))
    assert problem.where == "upscaler"
    assert "Lanczos" in problem.remedy


def its_pictures_can_be_called_off(host: Host, folder: Path) -> None:
    assert "render" in host.capabilities()
    before = sorted(host.lora_dir().rglob("*")) if host.lora_dir().is_dir() else []
    assert host.render(Shot("a thing", width=64, height=64), lambda: True) is None
    assert host.render(Shot("a thing", loras=(Applied(folder / "none.safetensors"),)), lambda: True) is None
    assert host.busy() == ""
    assert (sorted(host.lora_dir().rglob("*")) if host.lora_dir().is_dir() else []) == before


def its_memory_comes_back(host: Host, folder: Path) -> None:
    for outcome in ("", "a failure"):
        try:
            with host.memory_for_training():
                if outcome:
                    raise KeyError(outcome)
        except KeyError:
            assert outcome
        assert host.busy() == ""
    host.refresh_loras()


CHECKS: tuple[Callable[[Host, Path], None], ...] = (
    it_says_what_it_is,
    its_places_are_absolute_or_as_given,
    its_checkpoint_is_one_of_its_checkpoints,
    its_captioners_are_its_capabilities,
    its_captioners_caption,
    it_upscales_to_the_size_asked_for,
    its_pictures_can_be_called_off,
    its_memory_comes_back,
)
