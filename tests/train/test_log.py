"""Logs are read back as TensorBoard reads them; a log that fails ends, and the run goes on."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_train.settings import TrainSettings
from lora_train.train.log import Log, step_values, validation_values

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(step, value)]} of the one event file: records of length, its check, bytes, their check."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, at, found = file.read_bytes(), 0, {}
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_scalars_are_in_the_event_file(tmp_path: Path) -> None:
    warned: list[str] = []
    log = Log(TrainSettings(logging_dir=str(tmp_path), log_prefix="fox-"), warned.append)
    log.scalars(1, {"loss/current": 0.25, "lr/unet": 1e-4})
    log.scalars(2, {"loss/current": math.nan})
    log.close()
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("fox-2") and len(folder.name) == len("fox-") + 14 and log.folder == folder
    found = written(folder)
    assert found["lr/unet"] == [(1, pytest.approx(1e-4))]
    assert found["loss/current"][0] == (1, 0.25) and math.isnan(found["loss/current"][1][1])
    assert warned == []


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log(TrainSettings(), pytest.fail)
    log.scalars(1, {"loss/current": 0.1})
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cant_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    warned: list[str] = []
    log = Log(TrainSettings(logging_dir=str(tmp_path / "file" / "logs")), warned.append)
    log.scalars(1, {"loss/current": 0.1})
    log.close()
    assert len(warned) == 1 and "no log for TensorBoard" in warned[0]


def test_a_disk_that_fills_up_ends_the_log_alone(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    warned: list[str] = []
    log = Log(TrainSettings(logging_dir=str(tmp_path)), warned.append)
    writer = log._writers["TensorBoard"]._file._py_recordio_writer  # type: ignore[attr-defined]
    writer._writer.close()
    writer._writer = open(full, "wb", buffering=0)  # noqa: SIM115 - the log closes it
    for step in range(50):
        log.scalars(step, {"loss/current": 0.1})
    writer._writer.close()
    log.close()
    assert len(warned) == 1 and "ends here" in warned[0]


def test_packages_that_are_missing_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    warned: list[str] = []
    Log(TrainSettings(logging_dir=str(tmp_path), log_with="all"), warned.append).scalars(1, {"loss/current": 1.0})
    assert [warning.split(":")[0] for warning in warned] == ["no log for TensorBoard", "no log for wandb"]


def test_wandb_gets_the_same_scalars_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    run = SimpleNamespace(log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: told.append(options) or run))
    log = Log(TrainSettings(log_with="wandb", output_name="fox"), pytest.fail)
    log.scalars(3, {"loss/current": 0.1})
    log.close()
    assert told == [{"project": "network_train", "name": "fox", "dir": None}, (3, {"loss/current": 0.1}), "finished"]


def test_names_are_those_of_sd_scripts() -> None:
    names, rates = ["textencoder", "unet"], [5e-5, 1e-4]
    assert step_values(0.1, 0.12, 0.5, names, rates, TrainSettings()) == {
        "loss/current": 0.1,
        "loss/average": 0.12,
        "norm/grad": 0.5,
        "lr/textencoder": 5e-5,
        "lr/unet": 1e-4,
    }
    adaptive = step_values(0.1, 0.1, 0.5, names, rates, TrainSettings(optimizer_type="Prodigy"))
    assert {"lr/d*lr/textencoder", "lr/d*lr/unet"} < set(adaptive) and "lr/unet" not in adaptive
    assert validation_values({"train": 0.1, "held_out": 0.14}) == {
        "loss/validation/epoch_train": 0.1,
        "loss/validation/epoch_average": 0.14,
        "loss/validation/epoch_divergence": pytest.approx(0.04),
    }
    assert validation_values({"train": 0.1, "held_out": None}, at="step") == {"loss/validation/step_train": 0.1}
