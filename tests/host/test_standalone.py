"""The host without a WebUI."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_train.errors import UserError
from lora_train.grid.plan import Grid
from lora_train.host import standalone
from lora_train.host.base import Host, Sheet, find_captioner
from lora_train.host.standalone import StandaloneHost
from lora_train.model.load import load_model
from tests.grid.conftest import write
from tests.support import Widths, checkpoint


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some file in the embedded checkpoint's place."""
    path = tmp_path / "assets" / "mini.safetensors"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setattr(standalone, "MINI_CHECKPOINT", path)
    return path


def test_it_is_a_host(tmp_path: Path) -> None:
    host: Host = StandaloneHost(None, tmp_path / "loras", tmp_path / "data")
    assert (host.name, host.lora_dir(), host.data_dir()) == ("standalone", tmp_path / "loras", tmp_path / "data")
    host.refresh_loras()


def test_checkpoints_are_those_of_the_folder_and_the_embedded_one(tmp_path: Path, mini: Path) -> None:
    models = tmp_path / "models"
    (models / "sub").mkdir(parents=True)
    for name in ("b.safetensors", "a.ckpt", "sub/c.safetensors", "notes.txt"):
        (models / name).touch()
    host = StandaloneHost(None, tmp_path, tmp_path, models)
    assert [entry.title for entry in host.checkpoints()] == ["a", "b", "c", "Mini (embedded)"]
    assert host.checkpoint() == host.checkpoints()[-1]
    host.choose(models / "b.safetensors")
    chosen = host.checkpoint()
    assert chosen and chosen.path == models / "b.safetensors"


def test_without_any_checkpoint_it_says_so(tmp_path: Path, mini: Path) -> None:
    mini.unlink()
    host = StandaloneHost(None, tmp_path, tmp_path)
    assert host.checkpoint() is None
    assert host.checkpoints() == []
    with pytest.raises(UserError, match="no checkpoint is chosen"):
        host.draw(Grid(("x.safetensors",), ("p",)), lambda done, total, cell: None)


def pixels(sheet: Sheet) -> list[bytes]:
    """Of the first row's cells."""
    return [cell.tobytes() for cell in sheet.pages[0].cells[0] if cell]


def test_what_it_is_doing(tmp_path: Path) -> None:
    host = StandaloneHost(None, tmp_path, tmp_path)
    with pytest.raises(KeyError), host.memory_for_training():
        assert host.busy() == "a training has the GPU"
        raise KeyError
    assert host.busy() == ""


def test_choosing_a_checkpoint_waits_for_no_training(tmp_path: Path) -> None:
    host = StandaloneHost(None, tmp_path, tmp_path)
    with host.memory_for_training():
        choosing = threading.Thread(target=host.choose, args=(tmp_path / "b.safetensors",), daemon=True)
        choosing.start()
        choosing.join(5)
        assert not choosing.is_alive()
        chosen = host.checkpoint()
        assert chosen and chosen.path == tmp_path / "b.safetensors"


def test_it_says_what_there_is_instead(tmp_path: Path) -> None:
    host = StandaloneHost(None, tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"standalone has no captioner\. Write the captions by hand"):
        find_captioner(host, "deepbooru")
    with pytest.raises(UserError, match=r"no upscaler 'ESRGAN'\. Choose Lanczos"):
        host.upscale(Image.new("RGB", (8, 8)), "ESRGAN", 16, 16)


def test_it_draws_keeps_its_model_and_lets_go_of_it_for_training(tmp_path: Path) -> None:
    narrow = checkpoint(tmp_path / "narrow.safetensors", Widths(text_layers=1))
    lora = tmp_path / "loras" / "run-000001.safetensors"
    lora.parent.mkdir()
    write(lora, load_model(narrow), rank=2, seed=1)
    host = StandaloneHost(narrow, lora.parent, tmp_path)
    grid = Grid((str(lora),), ("a thing",), (0.0, 1.0), steps=1, width=64, height=64)

    first = host.draw(grid, lambda done, total, cell: None)
    kept = host._model
    host.draw(grid, lambda done, total, cell: None)
    assert kept is not None and host._model is kept
    with host.memory_for_training():
        assert host._model is None
    again = host.draw(grid, lambda done, total, cell: None)
    assert [cell.tobytes() for cell in again.pages[0].cells[0]] == [cell.tobytes() for cell in first.pages[0].cells[0]]
    assert len({cell.tobytes() for cell in first.pages[0].cells[0]}) == 2

    lora.write_bytes(b"<html>")
    with pytest.raises(UserError, match="run-000001"):
        host.draw(grid, lambda done, total, cell: None)
    assert host._model is None
