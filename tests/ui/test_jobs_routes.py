"""The routes of jobs: status, list, events, pictures, starting and ending."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from lora_train.errors import UserError

from .web import V1, problems


def test_status_tells_host_packages_tasks_and_job(client, manager) -> None:
    status = client.get(f"{V1}/status").json()
    assert (status["state"], status["queue"]) == ("idle", [])
    assert isinstance(status["tasks"], list)
    assert status["packages"]["state"] in ("checking", "ready")
    host = status["host"]
    assert (host["checkpoint"], host["vae"], host["clip_skip"]) == (manager.host.checkpoint().title, None, 1)
    assert (host["capabilities"], host["restricted"], host["busy"]) == (["grid", "upscale"], False, "")
    assert host["checkpoints"]


def test_a_host_without_any_checkpoint_says_so(client, manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager.host, "checkpoint", lambda: None)
    assert client.get(f"{V1}/status").json()["host"]["checkpoints"] == bool(manager.host.checkpoints())
    monkeypatch.setattr(manager.host, "checkpoints", list)
    host = client.get(f"{V1}/status").json()["host"]
    assert (host["checkpoint"], host["checkpoints"]) == (None, False)


def test_status_of_a_certain_job(client) -> None:
    assert client.get(f"{V1}/status?job=job-1").status_code == 200
    assert client.get(f"{V1}/status?job=other").status_code == 404


def test_jobs_are_listed_without_curves(client, manager) -> None:
    manager.now |= {"id": "job-1", "losses": [[1, 0.5]], "smoothed": [[1, 0.5]], "rates": {"unet": [[1, 1e-4]]}}
    (listed,) = client.get(f"{V1}/jobs").json()
    assert (listed["id"], listed["losses"], listed["smoothed"], listed["rates"]) == ("job-1", [], [], {})
    assert client.get(f"{V1}/jobs/job-1").json()["losses"] == [[1, 0.5]]
    assert client.get(f"{V1}/jobs/other").status_code == 404


def test_events_come_in_pieces(client, manager) -> None:
    assert client.get(f"{V1}/jobs/job-1/events").json() == {"events": [], "next": 0}
    lines = [json.dumps({"event": "progress", "step": step}) for step in range(1200)]
    (manager.job / "events.jsonl").write_text("\n".join(lines) + '\n{"event": "half', encoding="utf-8")
    first = client.get(f"{V1}/jobs/job-1/events").json()
    assert (len(first["events"]), first["next"]) == (1000, 1000)
    rest = client.get(f"{V1}/jobs/job-1/events?after={first['next']}").json()
    assert ([e["step"] for e in rest["events"]], rest["next"]) == (list(range(1000, 1200)), 1200)
    assert client.get(f"{V1}/jobs/job-1/events?after=1200").json() == {"events": [], "next": 1200}
    assert client.get(f"{V1}/jobs/job-1/events?after=-1").status_code == 422
    assert client.get(f"{V1}/jobs/job-1/events?after=x").status_code == 422


def test_a_start_hands_everything_on(client, manager) -> None:
    body = {"settings": {"network_dim": 4}, "grid": {"weights": "1"}, "share_gpu": True}
    assert client.post(f"{V1}/jobs", json=body).json() == {"id": "job-1"}
    assert manager.started == [({"network_dim": 4}, {"weights": "1"})]
    assert manager.told == [("start", True)]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"settings"}),
        ({"settings": []}, {"settings"}),
        ({"settings": {}, "grid": 3, "share_gpu": "yes"}, {"grid", "share_gpu"}),
        ({"settings": {}, "gird": {}}, {"gird"}),
    ],
)
def test_a_start_of_another_form_is_refused(client, manager, body, wrong) -> None:
    assert problems(client.post(f"{V1}/jobs", json=body)).keys() == wrong
    assert not manager.told


def test_all_problems_come_back_with_their_fields(client, manager) -> None:
    manager.problems = [
        UserError("no folder", where="train_data_dir"),
        UserError("bad", where="seed", remedy="Mend it"),
    ]
    answer = client.post(f"{V1}/jobs", json={"settings": {}})
    assert problems(answer) == {"train_data_dir": "no folder", "seed": "bad"}
    assert [problem["remedy"] for problem in answer.json()["detail"]] == ["", "Mend it"]


@pytest.mark.parametrize("action", ["pause", "resume", "stop", "remove"])
def test_actions_on_a_job(client, manager, action) -> None:
    answer = client.post(f"{V1}/jobs/job-1/{action}", json={})
    assert answer.json() == {"id": "job-1", "state": "removed" if action == "remove" else "idle"}
    assert manager.told == [(action, "job-1")]
    assert client.post(f"{V1}/jobs/other/{action}", json={}).status_code == 404
    manager.problems = [UserError("it is running")]
    assert client.post(f"{V1}/jobs/job-1/{action}", json={}).status_code == 422
    assert len(manager.told) == 1


def test_the_chart_is_of_that_job(client, manager) -> None:
    manager.now |= {"id": "job-1", "losses": [[1, 0.5], [2, 0.25]], "step": 2, "total": 4, "epochs": 2}
    answer = client.get(f"{V1}/jobs/job-1/chart.svg")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.text.startswith("<svg")


def test_previews_are_counted_over_all_epochs(client, manager, tmp_path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        path.write_bytes(b"picture %d" % n)
    (tmp_path / "secret.txt").write_text("secret")
    manager.now["previews"] = [
        {"epoch": 1, "step": 2, "paths": [str(paths[0]), str(paths[1])]},
        {"epoch": 2, "step": 4, "paths": [str(paths[2]), str(tmp_path / "secret.txt"), str(tmp_path / "gone.png")]},
    ]
    assert [client.get(f"{V1}/jobs/job-1/previews/{n}.png").content for n in range(3)] == [
        b"picture 0",
        b"picture 1",
        b"picture 2",
    ]
    for number in ("3", "4", "5", "-1", "x"):
        assert client.get(f"{V1}/jobs/job-1/previews/{number}.png").status_code in (404, 422)


@pytest.mark.parametrize("path", ["status", "status?job=job-1", "jobs", "jobs/job-1", "jobs/job-1/events"])
def test_an_open_host_does_not_tell_where_its_folders_are(client, manager, path: str) -> None:
    loras, data = manager.host.lora_dir(), manager.host.data_dir()
    manager.now |= {
        "id": "job-1",
        "output_dir": str(loras),
        "files": [{"path": str(loras / "mine" / "a.safetensors"), "epoch": 1}],
        "error": f"{data / 'jobs' / 'job-1'}: the disk is full",
    }
    event = {"event": "saved", "path": str(loras / "a.safetensors"), "step": 3}
    (manager.job / "events.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    root = str(manager.host.root)
    assert root in client.get(f"{V1}/{path}").text
    manager.host.open_to_all = True
    told = client.get(f"{V1}/{path}").text
    assert root not in told
    if "events" not in path and path != "jobs":
        assert '"output_dir":"loras"' in told and "mine/a.safetensors" in told
        assert '"error":"jobs/job-1: the disk is full"' in told
