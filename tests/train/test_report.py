"""What a run tells: every step once and in order, also where losses stay on a GPU for a while."""

from types import SimpleNamespace

import pytest
import torch

from lora_train.settings import TrainSettings
from lora_train.train.position import Position, due
from lora_train.train.progress import Progress
from lora_train.train.report import Report, peak_memory
from lora_train.train.step import StepResult
from lora_train.train.watch import BlowUp, Watch


def reporting(waits, total=25, **changes):
    settings, heard = TrainSettings(**changes), []
    optimizer = SimpleNamespace(param_groups=[{"name": "unet"}])
    model = SimpleNamespace(device=torch.device("cpu"))
    step = SimpleNamespace(waits=waits, watch=Watch(settings), optimizer=optimizer, model=model)
    return Report(step, Progress(total, 5), settings, heard.append), heard


def result(loss):
    return StepResult(torch.tensor(loss), [1e-3], torch.tensor(0.5))


@pytest.mark.parametrize("waits", [True, False])
def test_every_step_is_told_once_and_in_order(waits):
    report, heard = reporting(waits)
    told = []
    for done in range(1, 26):
        report.after(Position(done, 1 + (done - 1) // 5), result(done / 8))
        told.append(len(heard))
    assert told == (list(range(1, 26)) if waits else [0] * 9 + [10] * 10 + [20] * 5 + [25])
    assert [(e["step"], e["loss"], e["epoch"]) for e in heard] == [(n, n / 8, 1 + (n - 1) // 5) for n in range(1, 26)]
    assert [e["loss_average"] for e in heard[:6]] == [n / 8 for n in (1, 1.5, 2, 2.5, 3, 4)]
    assert {e["total"] for e in heard} == {25} and heard[0]["lr"] == [1e-3]
    assert heard[0]["rates"] == {"unet": 1e-3} and heard[0]["memory"] > 2**20


def test_what_is_left_is_told_at_an_epochs_end():
    report, heard = reporting(waits=False)
    for done in (1, 2, 3):
        report.after(Position(done), result(1.0))
    assert not heard
    report.measure_epoch(Position(3))
    assert [e["step"] for e in heard] == [1, 2, 3]
    report.close(Position(3))
    assert [e["event"] for e in heard[3:]] == ["measured"] and heard[3]["memory"] > 0


def test_a_loss_that_is_no_number_is_seen_when_it_is_fetched():
    report, heard = reporting(waits=False)
    for done, loss in enumerate([1.0, float("nan"), 1.0], 1):
        report.after(Position(done), result(loss))
    with pytest.raises(BlowUp, match="step 2"):
        report.flush()
    assert [e["step"] for e in heard] == [1]

    calm, heard = reporting(waits=False, stop_on_blow_up=False)
    for done, loss in enumerate([1.0, float("nan"), 1.0], 1):
        calm.after(Position(done), result(loss))
    calm.flush()
    assert [e["event"] for e in heard] == ["progress"] * 3 + ["warning"]


def test_time_is_reckoned_without_the_first_step(monkeypatch):
    """Which takes longer: kernels are chosen and compiled."""
    now = iter([0.0, 10.0, 11.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    progress = Progress(total=12, steps_per_epoch=3, before=7)
    told = [progress.after(done, 3, 1.0, 1.0, []) for done in (8, 9, 10)]
    assert [e["eta"] for e in told] == [40.0, 3.0, 2.0] and progress.a_step == 1.0


def test_memory_is_that_of_this_process():
    before = peak_memory(torch.device("cpu"))
    kept = torch.ones(30_000_000)
    assert peak_memory(torch.device("cpu")) >= max(before, kept.nbytes)


def test_every_nth():
    assert [n for n in range(7) if due(3, n)] == [0, 3, 6]
    assert not due(None, 3) and not due(0, 3)
