"""The caption studio's routes: the table, previews and what they write, the way back, and what strangers may do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.studio import limited
from lora_train.studio.look import picture_id
from lora_train.ui.routes import caption_studio

from .web import V1, problems

AT = f"{V1}/caption-studio"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two folders, four pictures to learn and one of regularisation."""
    root = tmp_path / "hina"
    captions = {
        "10_hina/a": "hina, 1girl, red_hat",
        "10_hina/b": "1girl, looking to the left",
        "10_hina/c": None,
        "5_dress/d": "dress, 1girl, 1girl",
        "reg/1_woman/r": None,
    }
    for name, caption in captions.items():
        path = root / ("" if name.startswith("reg") else "image") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (200, 0, 0)).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return root


@pytest.fixture
def ask(client: Any, project: Path) -> Any:
    """Posts to one of the routes for the project; the answer's JSON, or what has to be mended."""

    def posted(name: str, /, **body: Any) -> Any:
        answer = client.post(f"{AT}/{name}", json={"folder": str(project), **body})
        return answer.json() if answer.status_code == 200 else problems(answer)

    return posted


def texts(project: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(project.rglob("*.txt"))}


def test_a_page_of_the_table(ask: Any) -> None:
    page = ask("table", limit=2, offset=1)
    assert (page["total"], page["matching"], page["missing"], page["root"]) == (4, 4, 1, "hina")
    assert [row["name"] for row in page["rows"]] == ["10_hina/b.png", "10_hina/c.png"]
    assert page["rows"][0]["tokens"] == 7
    assert {one["name"]: one["is_reg"] for one in page["folders"]} == {
        "10_hina": False,
        "5_dress": False,
        "1_woman": True,
    }


def test_filters(ask: Any) -> None:
    for chosen, names in (
        ({"tags": ["1girl"], "without": ["red hat"]}, "bd"),
        ({"missing": True}, "c"),
        ({"folder": "5_dress"}, "d"),
        ({"text": "LEFT"}, "b"),
        ({"foreign": True}, ""),
        ({"names": ["10_hina/a.png", "nowhere"]}, "a"),
        ({"reg": True, "missing": True}, "cr"),
    ):
        found = ask("table", filter=chosen)["rows"]
        assert "".join(row["name"].split("/")[1][0] for row in found) == names, chosen


def test_a_wrong_filter_is_told(ask: Any) -> None:
    for wrong in ({"tags": "a"}, {"more": 1}, {"missing": "x"}, {"names": [1]}, {"text": 3}):
        assert "filter" in ask("table", filter=wrong), wrong


def test_tags_with_their_numbers(ask: Any) -> None:
    found = ask("tags")
    assert found["tags"][0] == ["1girl", 3]
    assert (found["different"], found["captions"]) == (5, 4)
    assert ask("tags", filter={"folder": "5_dress"})["tags"] == [["1girl", 1], ["dress", 1]]


def test_a_preview_writes_nothing_and_is_written_as_it_was_shown(ask: Any, project: Path) -> None:
    before = texts(project)
    body = {"edits": [{"edit": "add", "tags": "hina"}, {"edit": "deduplicate"}], "filter": {"without": ["dress"]}}
    shown = ask("preview", **body)
    assert texts(project) == before
    assert [(one["name"], one["before"], one["after"]) for one in shown["changes"]] == [
        ("10_hina/b.png", "1girl, looking to the left", "hina, 1girl, looking to the left"),
        ("10_hina/c.png", None, "hina"),
    ]
    done = ask("apply", **body, token=shown["token"])
    assert (done["written"], done["problems"]) == (2, [])
    assert texts(project) == {**before, "b": "hina, 1girl, looking to the left", "c": "hina"}
    history = ask("history")["changes"]
    assert [(one["title"], one["files"], one["undone"]) for one in history] == [
        ("add hina first; remove repeated tags", 2, False)
    ]
    assert ask("undo", change=done["entry"])["restored"] == 2
    assert texts(project) == before
    assert ask("history")["changes"][0]["undone"]
    assert "change" in ask("undo")


def test_captions_that_changed_since_the_preview_are_not_written(ask: Any, project: Path) -> None:
    body = {"edits": [{"edit": "add", "tags": "x"}]}
    token = ask("preview", **body)["token"]
    (project / "image" / "10_hina" / "a.txt").write_text("mine", encoding="utf-8")
    before = texts(project)
    assert "token" in ask("apply", **body, token=token)
    assert texts(project) == before


def test_many_are_written_by_a_task(ask: Any, client: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_studio, "_AT_ONCE", 1)
    body = {"edits": [{"edit": "add", "tags": "x"}]}
    task = ask("apply", **body, token=ask("preview", **body)["token"])["task"]
    for _ in range(200):
        found = next(one for one in client.get(f"{V1}/status").json()["tasks"] if one["id"] == task)
        if found["state"] != "running":
            break
        time.sleep(0.02)
    assert (found["state"], found["result"]["written"], found["done"]) == ("done", 4, 4)
    assert all(text.startswith("x") for text in texts(project).values())


def test_one_caption_is_written_unless_it_is_another_by_now(ask: Any, project: Path) -> None:
    row = ask("table")["rows"][2]
    row = ask("edit", name=row["name"], caption="hina, hat", digest=row["digest"])
    assert (row["caption"], row["missing"]) == ("hina, hat", False)
    assert texts(project)["c"] == "hina, hat"
    assert ask("table")["rows"][2] == row
    assert "c.txt" in ask("edit", name=row["name"], caption="other", digest="")
    assert texts(project)["c"] == "hina, hat"
    assert "nowhere" in ask("edit", name="nowhere", caption="other", digest="")


def test_findings_name_the_pictures_and_their_edit_can_be_sent(ask: Any) -> None:
    findings = {one["kind"]: one for one in ask("audit")["findings"]}
    assert findings["missing"]["pictures"] == ["10_hina/c.png"]
    assert findings["trigger"]["pictures"] == ["10_hina/b.png"]
    twice = findings["repeated"]
    shown = ask("preview", edits=[twice["edit"]], filter={"names": twice["pictures"]})
    assert [one["after"] for one in shown["changes"]] == ["dress, 1girl"]
    assert "max_token_length" in ask("audit", max_token_length=500)


def test_mirrored_copies(ask: Any, client: Any, project: Path) -> None:
    wanted = ask("flips", filter={"tags": ["looking to the left"]}, protect="1girl")
    assert (wanted["total"], wanted["changes"][0]["after"]) == (1, "1girl, looking to the right")
    task = ask("flip", filter={"tags": ["looking to the left"]})["task"]
    for _ in range(200):
        found = next(one for one in client.get(f"{V1}/status").json()["tasks"] if one["id"] == task)
        if found["state"] != "running":
            break
        time.sleep(0.02)
    assert found["result"]["written"] == 1
    assert texts(project)["b_flipped"] == "1girl, looking to the right"
    assert ask("undo", change=found["result"]["entry"])["restored"] == 2
    assert "filter" in ask("flip", filter={"text": "no such text"})


def test_pictures_by_their_id_alone(ask: Any, client: Any, project: Path, tmp_path: Path) -> None:
    row = ask("table")["rows"][0]
    answer = client.get(f"{AT}/pictures/{row['id']}.jpg", params={"folder": str(project), "side": 96})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    known = {"If-None-Match": answer.headers["etag"]}
    path = f"{AT}/pictures/{row['id']}.jpg"
    params = {"folder": str(project), "side": 96}
    assert client.get(path, params=params, headers=known).status_code == 304
    Image.new("RGB", (50, 20)).save(project / "image" / "10_hina" / "a.png")
    assert client.get(path, params=params, headers=known).status_code == 200
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    for wrong in (picture_id(outside), "x", "..%2Fa"):
        assert client.get(f"{AT}/pictures/{wrong}.jpg", params={"folder": str(project)}).status_code == 404
    params = {"folder": str(project), "side": 5000}
    assert client.get(f"{AT}/pictures/{row['id']}.jpg", params=params).status_code == 404


def test_an_expression_that_takes_for_ever_holds_up_nobody(
    ask: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "SECONDS", 0.7)
    (project / "image" / "10_hina" / "a.txt").write_text("a" * 40 + "!", encoding="utf-8")
    edit = {"edit": "replace", "find": "(a+)+$", "regex": True}
    assert "takes longer" in ask("preview", edits=[edit])["find"]


def test_wrong_edits_say_where(ask: Any) -> None:
    for edits, place in (
        ([], "edits"),
        (None, "edits"),
        ([1], "edits"),
        ([{"edit": "burn"}], "edit"),
        ([{"edit": "add"}], "tags"),
        ([{"edit": "replace", "find": "(", "regex": True}], "find"),
    ):
        assert place in ask("preview", edits=edits), edits


def test_a_folder_that_is_none(client: Any) -> None:
    for folder in ("", "/nowhere/at all", "\0"):
        assert "folder" in problems(client.post(f"{AT}/table", json={"folder": folder})), folder


def test_an_open_host_reads_and_writes_its_own_folders_alone(
    ask: Any, client: Any, manager: Any, project: Path
) -> None:
    manager.host.open_to_all = True
    assert ask("table")["total"] == 4  # the fixture's folder is the host's
    assert not ask("table")["regex"]
    regex = {"folder": str(project), "edits": [{"edit": "replace", "find": "a", "regex": True}]}
    assert client.post(f"{AT}/preview", json=regex).status_code == 403
    before = texts(project)
    for allowed in (project.parent / "elsewhere", project / "image"):  # a project's root is read with its image/
        manager.host.picture_folders = lambda allowed=allowed: [allowed]
        for name, more in (
            ("table", {}),
            ("tags", {}),
            ("history", {}),
            ("audit", {}),
            ("undo", {}),
            ("flip", {}),
            ("edit", {"name": "10_hina/a.png", "caption": "x", "digest": ""}),
            ("apply", {"edits": [{"edit": "add", "tags": "x"}], "token": ""}),
        ):
            for folder in (project, project / "image"):
                answer = client.post(f"{AT}/{name}", json={"folder": str(folder), **more})
                assert answer.status_code == 403, name
        name = picture_id(project / "image" / "10_hina" / "a.png")
        for folder in (project, project / "image"):
            assert client.get(f"{AT}/pictures/{name}.jpg", params={"folder": str(folder)}).status_code == 403
    assert texts(project) == before


def test_an_open_host_follows_no_link_out_of_its_folders(
    ask: Any, client: Any, manager: Any, project: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    (project / "image" / "10_hina" / "c.txt").symlink_to(secret)
    assert ask("table")["total"] == 4
    manager.host.open_to_all = True
    manager.host.picture_folders = lambda: [project]
    assert client.post(f"{AT}/table", json={"folder": str(project)}).status_code == 403
    (project / "image" / "10_hina" / "c.txt").unlink()
    assert ask("table")["total"] == 4


def test_an_open_host_writes_no_pages(ask: Any, manager: Any) -> None:
    """gradio's page would serve them."""
    assert ask("table", extension=".html")["total"] == 4
    manager.host.open_to_all = True
    for wrong in (".html", "svg", ".txt.js"):
        assert ask("table", extension=wrong).keys() == {"extension"}
    assert ask("table", extension="caption")["total"] == 4
