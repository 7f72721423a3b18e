"""What a job's record keeps of its events."""

import json
import math

import pytest

from lora_train.events import event
from lora_train.jobs import record

EVENTS = (
    event("cache", what="pictures", done=1, total=2),
    event("start", steps=10, epochs=4, steps_per_epoch=3, estimate={"memory": [1, 2]}),
    *(
        event("progress", step=n, epoch=1 + n // 4, loss=0.1, loss_average=0.1, rates={"unet": 1e-4 / n}, memory=n)
        for n in range(1, 8)
    ),
    event("saved", path="/o/a-000001.safetensors", epoch=1, step=3),
    event("state", path="/s/one-state", epoch=1, step=3),
    event("validation", step=3, epoch=1, within=False, band=None, train=0.2, held_out=0.3),
    event("validation", step=4, epoch=2, within=True, band=None, train=0.2, held_out=0.3),
    event("validation", step=6, epoch=2, within=False, band=[1, 2], train=0.1, held_out=float("nan")),
    event("preview", paths=["/p/a.png"], epoch=1, step=3),
    event("preview", paths=["/p/b.png"], epoch=2, step=6),
    event("saved", path="/o/a-000002.safetensors", epoch=2, step=6),
    event("saved", path="/o/a.safetensors", epoch=2, step=6),
    event("measured", seconds_per_step=0.5, memory=2**30),
    event("advice", lines=["less"]),
    event("warning", text="w"),
    event("warning", text="w"),
)


def told():
    known = record.Record("1", "a", "b")
    for e in EVENTS:
        known.apply(e)
    return known


def test_a_record_keeps_what_a_run_tells(tmp_path):
    known = told()
    known.save(tmp_path)
    again = record.load(tmp_path)
    assert again == known
    assert (again.resume, again.band, again.advice, again.warnings) == ("/s/one-state", [1, 2], ["less"], ["w"])
    assert (again.seconds_per_step, again.memory, again.memory_now) == (0.5, 2**30, 7)
    assert again.estimate == {"memory": [1, 2]}
    assert [(m["epoch"], m["held_out"]) for m in again.validation] == [(1, 0.3), (2, None)]
    assert again.previews[0] == {"epoch": 1, "step": 3, "paths": ["/p/a.png"]}
    assert [(saved["epoch"], saved["step"]) for saved in again.epochs_saved] == [(1, 3), (2, 6)]
    assert len(again.files) == 3


def test_a_run_that_goes_on_does_not_have_a_part_twice():
    known = told()
    known.apply(event("resumed", path="/s/one-state", step=3))
    assert [step for step, _ in known.losses] == [step for step, _ in known.rates["unet"]] == [1, 2, 3]
    assert [m["step"] for m in known.validation] == [p["step"] for p in known.previews] == [3]
    assert known.files == ["/o/a-000001.safetensors", "/o/a.safetensors"]
    assert (known.step, known.epoch, known.total, known.band) == (3, 1, 10, None)


def test_what_the_record_lacks_is_in_the_events(tmp_path):
    whole, late = told(), record.Record("1", "a", "b", warnings=["before"])
    with open(tmp_path / record.EVENTS, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(e) + "\n" for e in EVENTS)
        file.write('{"event": "progress", "step": 8')  # the disk was full
    late.read_events(tmp_path)
    assert (late.losses, late.rates, late.validation) == (whole.losses, whole.rates, whole.validation)
    assert (late.step, late.files, late.warnings) == (7, whole.files, ["before", "w"])


def test_a_record_of_an_earlier_version_is_read(tmp_path):
    old = {"id": "1", "name": "a", "checkpoint": "b", "state": "done", "began": 5.0}
    old |= {
        "previews": ["/p/a.png", "/p/b.png"],
        "validation": [{"step": 3, "train": 0.1, "held_out": None}],
        "future": 1,
    }
    old |= {"future": 1, "grid": {"done": 1, "total": 2, "path": "/g.png", "error": None}}
    (tmp_path / "record.json").write_text(json.dumps(old), encoding="utf-8")
    known = record.load(tmp_path)
    assert [preview["paths"] for preview in known.previews] == [["/p/a.png"], ["/p/b.png"]]
    assert known.validation[0]["epoch"] is None and known.created == 5.0
    assert known.grid == record.GridRecord(1, 2, "/g.png")
    json.dumps(known.to_dict(), allow_nan=False)


def test_a_rate_that_stays_is_two_points():
    known = record.Record("1", "a", "b")
    for n in range(1, 1001):
        known.apply(event("progress", step=n, epoch=1, loss=1 / n, rates={"unet": 1e-4, "text": 1e-4 * n}))
    told = known.to_dict()
    assert told["rates"]["unet"] == [[1, 1e-4], [1000, 1e-4]]
    assert len(told["losses"]) == len(told["smoothed"]) == len(told["rates"]["text"]) == 500
    assert told["losses"][-1] == [1000, 1e-3]


def test_the_steady_curve_does_not_lag_behind():
    """A step down in the middle is crossed in the middle; a plain moving average crosses it later."""
    points = [(n, 1.0 if n < 500 else 0.0) for n in range(1000)]
    smooth = record.steady(points)
    assert next(n for n, value in smooth if value < 0.5) == pytest.approx(500, abs=3)
    assert (smooth[0][1], smooth[-1][1]) == (pytest.approx(1.0, abs=1e-3), pytest.approx(0.0, abs=1e-3))
    noise = [(n, 0.1 + 0.05 * math.sin(7919 * n)) for n in range(1000)]
    assert max(abs(value - 0.1) for _, value in record.steady(noise)[20:-20]) < 0.01


def test_epochs_that_have_ended():
    assert record.epoch_ends({"epochs": 4, "steps_per_epoch": 3, "total": 10, "step": 7}) == [3, 6]
    assert record.epoch_ends({"epochs": 4, "steps_per_epoch": 3, "total": 10, "step": 10}) == [3, 6, 9, 10]
    assert record.epoch_ends({"epochs": 0, "steps_per_epoch": 0, "total": 0, "step": 0}) == []


def test_the_chart_shows_the_measured_curves():
    bare = record.chart(record.Record("1", "a", "b").to_dict())
    svg = record.chart(told().to_dict())
    assert svg.startswith("<svg") and len(svg) > len(bare)
    assert "held" in svg.lower()
