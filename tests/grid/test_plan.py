"""Which files make a run, and which of its epochs are wanted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lora_train.errors import UserError
from lora_train.grid.plan import OTHERS, all_series, choose, epoch_file, epoch_of, run_of, series
from lora_train.network.kohya import write_lora


def lora(path: Path, **metadata: str) -> Path:
    """A LoRA file of one tensor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lora(path, {"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, metadata, torch.float16)
    return path


def stems(files: tuple[str, ...]) -> list[str]:
    return [Path(file).stem for file in files]


def test_kohyas_last_file_without_a_number_comes_last_with_its_epoch(tmp_path: Path) -> None:
    """sd-scripts writes NAME-000001 … NAME-000009 and, for the tenth, NAME."""
    for epoch in (1, 2, 10):
        lora(tmp_path / f"cat-{epoch:06}.safetensors", ss_epoch=str(epoch))
    last = lora(tmp_path / "cat.safetensors", ss_epoch="11", ss_num_epochs="11")
    lora(tmp_path / "cat2-000001.safetensors")
    assert stems(series(tmp_path, "cat")) == ["cat-000001", "cat-000002", "cat-000010", "cat"]
    assert epoch_file(last).label == "last (epoch 11)"
    assert epoch_of(last) == 11
    assert epoch_of(lora(tmp_path / "old.safetensors", ss_num_epochs="7")) == 7
    assert epoch_of(lora(tmp_path / "none.safetensors")) is None


def test_our_last_file_is_there_by_its_number_already(tmp_path: Path) -> None:
    for epoch in (1, 2):
        lora(tmp_path / f"cat-{epoch:06}.safetensors", ss_epoch=str(epoch))
    lora(tmp_path / "cat.safetensors", ss_epoch="2")
    assert stems(series(tmp_path, "cat")) == ["cat-000001", "cat-000002"]


def test_a_run_of_one_file_and_a_run_by_steps(tmp_path: Path) -> None:
    lora(tmp_path / "one.safetensors")
    for step in (500, 1000, 1500):
        lora(tmp_path / f"fox-step{step:08}.safetensors")
    lora(tmp_path / "fox.safetensors", ss_epoch="3")
    assert stems(series(tmp_path, "one")) == ["one"]
    assert stems(series(tmp_path, "fox")) == ["fox-step00000500", "fox-step00001000", "fox-step00001500", "fox"]
    assert epoch_file(tmp_path / "fox-step00000500.safetensors").label == "step 500"
    lora(tmp_path / "fox-000001.safetensors")
    assert stems(series(tmp_path, "fox")) == ["fox-000001", "fox"]


@pytest.mark.parametrize("name", ["a, b", "花 园", "dots.v1.2", "x-1", "[a](b)*?", "-000001"])
def test_any_name(tmp_path: Path, name: str) -> None:
    for epoch in (2, 10):
        lora(tmp_path / f"{name}-{epoch:06}.safetensors")
    assert stems(series(tmp_path, name)) == [f"{name}-000002", f"{name}-000010"]
    assert run_of(tmp_path / f"{name}-000002.safetensors") == name


def test_there_is_no_such_run(tmp_path: Path) -> None:
    lora(tmp_path / "cat-000001.safetensors")
    for folder, name in ((tmp_path, "dog"), (tmp_path / "gone", "cat")):
        with pytest.raises(UserError, match="no LoRA files"):
            series(folder, name)


def test_all_series_are_found_the_newest_first(tmp_path: Path) -> None:
    for n, name in enumerate(("cat-000001", "cat-000002", "sub/fox-step00000500", "single", "cat", "broken-000001")):
        path = lora(tmp_path / f"{name}.safetensors", ss_epoch="3")
        os.utime(path, (1000 + n, 1000 + n))
    lora(tmp_path / OTHERS / "cat-000007.safetensors")
    (tmp_path / "broken-000001.safetensors").write_text("<html>")
    os.utime(tmp_path / "broken-000001.safetensors", (9, 9))
    found = all_series(tmp_path)
    assert [run["name"] for run in found] == ["cat", "fox", "broken"]
    cat = found[0]
    assert (cat["folder"], cat["newest"]) == (str(tmp_path), 1004)
    assert [(e["label"], e["epoch"], Path(e["lora"]).name) for e in cat["epochs"]] == [
        ("epoch 1", 1, "cat-000001.safetensors"),
        ("epoch 2", 2, "cat-000002.safetensors"),
        ("last (epoch 3)", 3, "cat.safetensors"),
    ]
    assert found[1]["epochs"][0]["step"] == 500
    assert all_series(tmp_path / "gone") == []


FILES = tuple(f"/x/cat-{epoch:06}.safetensors" for epoch in range(1, 9))


@pytest.mark.parametrize(
    ("text", "epochs"),
    [
        ("all", range(1, 9)),
        ("", range(1, 9)),
        ("2,4-6", [2, 4, 5, 6]),
        (" 2， 4 – 6 ", [2, 4, 5, 6]),
        ("6-100", [6, 7, 8]),
        ("band", [3, 4]),
        ("Band", [3, 4]),
    ],
)
def test_epochs_are_chosen(text: str, epochs: range | list[int]) -> None:
    assert choose(FILES, text, [3, 4]) == tuple(FILES[epoch - 1] for epoch in epochs)


def test_without_a_band_all_are_drawn() -> None:
    assert choose(FILES, "band", None) == FILES


def test_steps_and_the_last_file_are_chosen_by_their_numbers(tmp_path: Path) -> None:
    steps = ("/x/a-step00000500.safetensors", "/x/a-step00001000.safetensors")
    assert choose(steps, "1000") == steps[1:]
    last = str(lora(tmp_path / "cat.safetensors", ss_epoch="9"))
    assert choose((*FILES, last), "8-9") == (FILES[-1], last)


@pytest.mark.parametrize("text", ["99", "two", "-", ",", "1-2-3", "-3"])
def test_no_such_epoch(text: str) -> None:
    with pytest.raises(UserError) as caught:
        choose(FILES, text)
    assert caught.value.where == "epochs"
