"""What a job's record keeps of its events."""

from lora_train.events import event
from lora_train.jobs import record


def told() -> record.Record:
    known = record.Record("1", "a", "b")
    for e in (
        event("cache", what="pictures", done=1, total=2),
        event("start", steps=10, epochs=4, steps_per_epoch=3, estimate={"memory": [1, 2]}),
        *(event("progress", step=n, epoch=1 + n // 4, loss=0.1, loss_average=0.1) for n in range(1, 8)),
        event("state", path="/s/one-state", epoch=1, step=3),
        event("validation", step=3, epoch=1, within=False, band=None, train=0.2, held_out=0.3),
        event("validation", step=4, epoch=2, within=True, band=None, train=0.2, held_out=0.3),
        event("validation", step=6, epoch=2, within=False, band=[1, 2], train=0.1, held_out=float("nan")),
        event("preview", paths=["/p/a.png"], epoch=1, step=3),
        event("measured", seconds_per_step=0.5, memory=2**30),
        event("advice", lines=["less"]),
    ):
        known.apply(e)
    return known


def test_a_record_keeps_what_a_run_tells(tmp_path):
    known = told()
    known.save(tmp_path)
    again = record.load(tmp_path)
    assert again == record.Record(**{**vars(known), "losses": [[n, 0.1] for n in range(1, 8)]})
    assert (again.resume, again.band, again.previews, again.advice) == ("/s/one-state", [1, 2], ["/p/a.png"], ["less"])
    assert (again.seconds_per_step, again.memory, again.estimate) == (0.5, 2**30, {"memory": [1, 2]})
    assert [m["held_out"] for m in again.validation] == [0.3, None]


def test_epochs_that_have_ended():
    assert record.epoch_ends({"epochs": 4, "steps_per_epoch": 3, "total": 10, "step": 7}) == [3, 6]
    assert record.epoch_ends({"epochs": 4, "steps_per_epoch": 3, "total": 10, "step": 10}) == [3, 6, 9, 10]
    assert record.epoch_ends({"epochs": 0, "steps_per_epoch": 0, "total": 0, "step": 0}) == []


def test_the_chart_shows_the_measured_curves():
    bare = record.chart(record.Record("1", "a", "b").to_dict())
    svg = record.chart(told().to_dict())
    assert svg.startswith("<svg") and len(svg) > len(bare)
    assert "held" in svg.lower()
