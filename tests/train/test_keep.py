"""Which files go: sd-scripts' arithmetic, and only files of this run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.settings import TrainSettings
from lora_train.train.keep import Saved, expired, remove


def run(settings, kind, numbers, state=False):
    """The numbers that are there after each save of a run."""
    saved, history = [], []
    for number in numbers:
        saved.append(Saved(Path(f"{kind}{number}"), kind, number, state))
        for item in expired(saved, settings):
            saved.remove(item)
        history.append([item.number for item in saved])
    return history


def test_the_last_epochs_stay():
    settings = TrainSettings(save_every_n_epochs=2, save_last_n_epochs=2)
    assert run(settings, "epoch", [2, 4, 6, 8]) == [[2], [2, 4], [4, 6], [6, 8]]
    assert run(settings, "epoch", [2, 4, 5]) == [[2], [2, 4], [2, 4, 5]]  # the last epoch is saved whatever its number


def test_steps_are_counted_in_steps():
    settings = TrainSettings(save_every_n_steps=10, save_last_n_steps=30)
    history = run(settings, "step", range(10, 70, 10))
    assert history == [[10], [10, 20], [10, 20, 30], [10, 20, 30, 40], [20, 30, 40, 50], [30, 40, 50, 60]]


def test_states_have_their_own_number_or_that_of_the_files():
    both = TrainSettings(save_every_n_epochs=1, save_last_n_epochs=3, save_last_n_epochs_state=1)
    assert run(both, "epoch", [1, 2, 3], state=True)[-1] == [3]
    assert run(both, "epoch", [1, 2, 3])[-1] == [1, 2, 3]
    files = TrainSettings(save_every_n_epochs=1, save_last_n_epochs=1)
    assert run(files, "epoch", [1, 2, 3], state=True)[-1] == [3]


def test_kinds_are_apart():
    settings = TrainSettings(save_every_n_epochs=1, save_last_n_epochs=1, save_every_n_steps=5)
    saved = [Saved(Path(f"{k}{n}{s}"), k, n, s) for k in ("epoch", "step") for n in (5, 10) for s in (False, True)]
    assert {(i.kind, i.number) for i in expired(saved, settings)} == {("epoch", 5)}


@pytest.mark.parametrize(
    "settings",
    [TrainSettings(), TrainSettings(save_last_n_epochs=1, save_every_n_epochs=None)],
    ids=["off", "no rhythm"],
)
def test_nothing_goes_unasked(settings):
    assert run(settings, "epoch", [1, 2, 3])[-1] == [1, 2, 3]
    assert run(settings, "step", [1, 2, 3])[-1] == [1, 2, 3]


def kohya(kind, number, every, last):
    """The number that sd-scripts removes after a save, or None."""
    if kind == "epoch":
        old = number - every * last
    else:
        old = number - last - 1
        old -= old % every
    return old if old > 0 else None


@given(st.sampled_from(["epoch", "step"]), st.integers(1, 7), st.integers(1, 20), st.integers(1, 25))
def test_as_sd_scripts(kind, every, last, saves):
    settings = TrainSettings(**{f"save_every_n_{kind}s": every, f"save_last_n_{kind}s": last})
    there = set()
    for number, ours in zip(
        range(every, every * saves + 1, every), run(settings, kind, range(every, every * saves + 1, every)), strict=True
    ):
        there.add(number)
        there.discard(kohya(kind, number, every, last))
        assert set(ours) == there
        assert number in ours


def test_removing_never_raises(tmp_path):
    file, state, other = tmp_path / "a.safetensors", tmp_path / "a-state", tmp_path / "other.safetensors"
    for path in (file, other):
        path.write_bytes(b"x")
    state.mkdir()
    (state / "manifest.json").write_text("{}")
    link = tmp_path / "link-state"
    link.symlink_to(state, target_is_directory=True)
    assert remove(link) is None and state.exists()
    assert [remove(path) for path in (file, state, file, tmp_path / "never")] == [None] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]
    assert "could not be removed" in remove(other / "below")  # a file where a folder should be
