"""Whole runs in this process: what is held out, when they end, what is kept, and in which order."""

import json
from pathlib import Path

import pytest

from lora_train.model.checkpoint import Family
from tests.train import runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    runs.drawn(folder / "set" / "3_thing", sizes=((64, 64),) * 4)
    return folder


@pytest.fixture
def run(place, checkpoints, tmp_path):
    def made(stop_after=None, **changes):
        given = {"save_every_n_epochs": None, "max_train_epochs": 1, "train_batch_size": 4, "output_dir": str(tmp_path)}
        settings = runs.settings_for(place, checkpoints[Family.SD15], **{**given, **changes})
        return runs.train(settings, stop_after)

    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_held_out_pictures_are_trained_nowhere(run, tmp_path):
    """The others keep their repeats, and the file tells of them alone."""
    told = run(validation_split=0.25)
    start = told.of("start")[0]
    assert (start["pictures"], start["held_out"]) == (3, 1)
    assert start["buckets"] == [{"size": [64, 64], "count": 9, "batches": 3}]
    assert told.of("cache")[-2]["total"] == 4
    about = runs.metadata(tmp_path / "run.safetensors")
    assert json.loads(about["ss_dataset_dirs"]) == {"3_thing": {"n_repeats": 3, "img_count": 3}}
    assert about["ss_num_train_images"] == "9"
    measured = told.of("validation")
    assert [(e["epoch"], e["step"], e["within"]) for e in measured] == [(1, 3, False)]
    assert measured[0]["train"] > 0 and measured[0]["held_out"] > 0


def test_a_picture_that_breaks_is_left_out_of_its_own_set(run, place, tmp_path):
    """Its header is whole, so that it is found out only when it is encoded."""
    runs.drawn(tmp_path / "set" / "3_thing", sizes=((64, 64),) * 5)
    for path in sorted((tmp_path / "set" / "3_thing").glob("*.png"))[:1]:
        path.write_bytes(path.read_bytes()[:-60])
    told = run(train_data_dir=str(tmp_path / "set"), validation_split=0.4, output_dir=str(tmp_path / "out"))
    start = told.of("start")[0]
    assert (start["pictures"], start["held_out"]) in ((2, 2), (3, 1))
    assert start["buckets"][0]["count"] == 3 * start["pictures"]
    assert any("0.png" in e["text"] for e in told.of("warning"))


def test_a_run_ends_early_where_the_held_out_loss_has_stalled(run, tmp_path):
    """With a rate that changes nothing every measurement is the same."""
    told = run(
        validation_split=0.25,
        early_stop_epochs=2,
        max_train_epochs=10,
        learning_rate=1e-30,
        save_every_n_epochs=1,
        save_state_on_train_end=True,
    )
    assert [e["epoch"] for e in told.of("validation")] == [1, 2, 3]
    assert len({e["held_out"] for e in told.of("validation")}) == 1
    assert told.outcome.steps == 9 and not told.outcome.stopped
    assert "hasn't fallen for 2 epochs" in told.of("stage")[-1]["text"]
    files = [f"run-00000{n}.safetensors" for n in (1, 2, 3)]
    assert names(tmp_path) == [*files, "run-state", "run.safetensors"]


def test_validation_does_not_drop_out(run, tmp_path):
    first = run()
    weights = str(first.outcome.files[-1])
    given = {"network_weights": weights, "learning_rate": 1e-30, "validation_split": 0.25, "max_train_epochs": 2}
    plain, dropping = (run(output_dir=str(tmp_path / "x"), network_dropout=rate, **given) for rate in (0.0, 0.5))
    assert all(a != b for a, b in zip(plain.losses, dropping.losses, strict=True))
    assert [e["train"] for e in plain.of("validation")] == [e["train"] for e in dropping.of("validation")]


def test_everything_is_saved_before_anything_is_measured_or_drawn(run):
    told = run(
        max_train_epochs=2,
        save_every_n_epochs=1,
        save_state=True,
        validation_split=0.25,
        sample_prompts="a thing --w 64 --h 64 --s 1",
        sample_every_n_epochs=2,
    )
    heard = [e["event"] for e in told.heard]
    first, second = (i for i, name in enumerate(heard) if name == "validation")
    assert heard[first - 3 : first + 1] == ["progress", "saved", "state", "validation"]
    assert heard[second - 2 : second + 2] == ["saved", "state", "validation", "preview"]
    assert heard[second + 2 :] == ["saved", "state", "measured", *["advice"] * heard.count("advice"), "done"]
    assert all(Path(path).is_file() for e in told.of("preview") for path in e["paths"])


def test_only_the_last_files_and_states_are_kept(run, tmp_path):
    told = run(
        max_train_epochs=4, save_every_n_epochs=1, save_state=True, save_last_n_epochs=2, save_last_n_epochs_state=1
    )
    kept = ["run-000003.safetensors", "run-000004.safetensors", "run-000004-state", "run-state", "run.safetensors"]
    assert names(tmp_path) == sorted(kept)
    assert [path.name for path in told.outcome.files] == [name for name in kept if name.endswith("s")]
    assert len(told.of("saved")) == 5


def test_files_by_step_have_their_number(run, tmp_path):
    run(max_train_epochs=2, save_every_n_steps=2, save_last_n_steps=2)
    assert names(tmp_path) == [
        "run-000002.safetensors",
        "run-step00000004.safetensors",
        "run-step00000006.safetensors",
        "run.safetensors",
    ]
    assert runs.metadata(tmp_path / "run-step00000004.safetensors")["ss_steps"] == "4"


def test_a_run_of_some_steps_ends_within_an_epoch(run, tmp_path):
    told = run(max_train_epochs=None, max_train_steps=4)
    assert told.outcome.steps == 4 and told.of("start")[0]["epochs"] == 2
    assert [e["epoch"] for e in told.of("progress")] == [1, 1, 1, 2]
    assert names(tmp_path) == ["run-000002.safetensors", "run.safetensors"]
    about = runs.metadata(tmp_path / "run.safetensors")
    assert (about["ss_steps"], about["ss_epoch"], about["ss_max_train_steps"]) == ("4", "2", "4")


def test_a_warm_start_takes_what_both_have(run, tmp_path):
    first = run(output_dir=str(tmp_path / "a"), block_dims=",".join(["0"] * 23 + ["2", "2"]))
    weights = str(first.outcome.files[-1])
    on = run(output_dir=str(tmp_path / "b"), network_weights=weights)
    assert "only there" in on.of("warning")[0]["text"]
    fresh = run(output_dir=str(tmp_path / "c"))
    assert on.losses[0] != fresh.losses[0]
