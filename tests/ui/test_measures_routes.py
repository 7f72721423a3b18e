"""The routes of measurements."""

from __future__ import annotations

import json

import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from .web import V1, problems


@pytest.fixture
def measuring(manager, monkeypatch):
    """The manager can measure, and remembers what it was asked."""
    asked = []

    def start(kind, values):
        asked.append((kind, values))
        return "job-1"

    monkeypatch.setattr(manager, "start_measure", start, raising=False)
    return asked


def test_a_start_hands_the_mix_on(client, measuring) -> None:
    body = {"kind": "effects", "mix": {"loras": [{"name": "cat"}], "shot": {"prompt": "x"}}, "timesteps": None}
    assert client.post(f"{V1}/blocks/measures", json=body).json() == {"id": "job-1"}
    assert measuring == [("effects", {"mix": body["mix"]})]
    assert problems(client.post(f"{V1}/blocks/measures", json={"mix": {}})).keys() == {"kind"}


def test_a_measurement_tells_how_it_stands_and_its_result(client, manager) -> None:
    manager.now |= {"id": "job-1", "kind": "effects", "state": "training", "step": 3, "total": 9, "stage": "block IN01"}
    told = client.get(f"{V1}/blocks/measures/job-1").json()
    assert (told["state"], told["step"], told["total"], told["stage"], told["result"]) == (
        *("training", 3, 9, "block IN01"),
        None,
    )
    manager.now |= {"state": "done"}
    (manager.job / "measure.json").write_text(json.dumps({"kind": "effects", "whole": 0.5}), encoding="utf-8")
    assert client.get(f"{V1}/blocks/measures/job-1").json()["result"]["whole"] == 0.5
    assert [one["id"] for one in client.get(f"{V1}/blocks/measures").json()] == ["job-1"]
    manager.now |= {"kind": "training"}
    assert client.get(f"{V1}/blocks/measures/job-1").status_code == 404
    assert client.get(f"{V1}/blocks/measures").json() == []
    assert client.get(f"{V1}/blocks/measures/other").status_code == 404


def test_maps_are_pictures_of_the_job_alone(client, manager) -> None:
    (manager.job / "maps").mkdir()
    Image.new("RGBA", (8, 8)).save(manager.job / "maps" / "IN04.png")
    Image.new("RGB", (8, 8)).save(manager.job / "secret.png")
    answer = client.get(f"{V1}/blocks/measures/job-1/maps/IN04.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    for name in ("IN05", "..%2Fsecret", "%2e%2e/secret", "*"):
        assert client.get(f"{V1}/blocks/measures/job-1/maps/{name}.png").status_code == 404
