"""Sets that a checkpoint draws itself: what is asked for, stopped, gone on with, taken back; and really drawn once."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.dataset import folders
from lora_train.errors import UserError, UserErrors
from lora_train.studio import project as projects
from lora_train.studio import sets
from lora_train.studio.project import Project
from tests.studio.drawn import loaded, tree


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = projects.make(tmp_path / "hina").project
    assert made is not None
    return made


def draw(shot: Mapping[str, Any], cancelled: Callable[[], bool]) -> Image.Image | None:
    """A picture that its seed decides."""
    noise = np.random.default_rng(shot["seed"]).integers(0, 256, (shot["height"], shot["width"], 3), np.uint8)
    return None if cancelled() else Image.fromarray(noise)


def woman(**more: Any) -> sets.Order:
    return sets.regularisation("hina woman", ["photo of a {woman|person}", "a woman"], 5, 3, 64, **more)


def test_regularisation_is_named_as_its_concept_with_captions(project: Project) -> None:
    order = sets.begin(project, woman(seed=7))
    made = sets.go_on(project, order.id, draw)
    assert (made.made, made.whole, made.stopped) == (5, True, False)
    folder = project.reg / "3_hina woman"
    assert sorted(path.name for path in folder.glob("*.png")) == [f"set1_000{n}.png" for n in range(1, 6)]
    texts = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    assert texts[1] == texts[3] == "a woman"
    assert set(texts[::2]) <= {"photo of a woman", "photo of a person"}
    picture = loaded(folder / "set1_0001.png")
    assert picture.info["parameters"].splitlines()[0] == texts[0]
    assert "Seed: 7, Size: 64x64" in picture.info["parameters"]
    (project.image / "1_hina woman").mkdir()
    loaded(folder / "set1_0002.png").save(project.image / "1_hina woman" / "a.png")
    reg = next(c for c in folders.scan(project.root).concepts if c.is_reg)
    assert (reg.name, reg.repeats, len(reg.pictures)) == ("hina woman", 3, 5)
    project.journal.undo()
    assert not list(project.reg.iterdir())


def test_a_stopped_set_goes_on_after_a_restart_to_the_same_pictures(project: Project, tmp_path: Path) -> None:
    order = sets.begin(project, woman())
    whole = sets.go_on(project, order.id, draw)
    wanted = tree(project.reg)
    project.journal.undo()
    assert not sets.find(project, order.id).made
    seen: list[tuple[int, int]] = []
    part = sets.go_on(project, order.id, draw, lambda *now: seen.append(now), lambda: len(seen) > 2)
    assert (part.made, part.stopped) == (2, True) and seen == [(0, 5), (1, 5), (2, 5)]
    again = Project(project.root)
    assert [(one.order, one.made) for one in sets.known(again)] == [(order, 2)]
    assert sets.go_on(again, order.id, draw).whole
    assert tree(project.reg) == wanted
    assert sets.go_on(again, order.id, draw).entry is None
    assert whole.entry is not None


def test_a_new_set_takes_no_pictures_of_a_forgotten_one_for_its_own(project: Project) -> None:
    order = sets.begin(project, woman())
    sets.go_on(project, order.id, draw)
    sets.forget(project, order.id)
    new = sets.begin(project, woman(seed=100))
    assert (new.id, sets.find(project, new.id).made) == ("set2", 0)
    assert sets.go_on(project, new.id, draw).whole
    assert len(list((project.reg / "3_hina woman").glob("*.png"))) == 10


def test_it_goes_on_in_a_folder_whose_repeats_were_changed(project: Project) -> None:
    order = sets.begin(project, woman())
    seen: list[int] = []
    sets.go_on(project, order.id, draw, lambda done, total: seen.append(done), lambda: len(seen) > 3)
    (project.reg / "3_hina woman").rename(project.reg / "9_hina woman")
    assert sets.go_on(project, order.id, draw).whole
    assert [path.name for path in project.reg.iterdir()] == ["9_hina woman"]


def test_what_fails_midway_stays_and_is_undone_with_the_rest(project: Project) -> None:
    order = sets.begin(project, woman())

    def fails(shot: Mapping[str, Any], cancelled: Callable[[], bool]) -> Image.Image | None:
        if shot["seed"] == 3:
            raise UserError("out of memory", where="GPU")
        return draw(shot, cancelled)

    with pytest.raises(UserError, match="out of memory"):
        sets.go_on(project, order.id, fails)
    assert sets.find(project, order.id).made == 2
    project.journal.undo()
    assert sets.find(project, order.id).made == 0


def test_a_base_style_has_the_rules_of_a_style(project: Project) -> None:
    for count in (12, 20, 60, 200):
        order = sets.base_style("AnythingV5", count, 512)
        number = {
            part.folder.rpartition(" ")[2]: (int(part.folder[6:].partition("_")[0]), part) for part in order.parts
        }
        uses = {name: repeats * part.count for name, (repeats, part) in number.items()}
        assert order.count == count
        assert 3.3 < uses["main"] / uses["face"] < 4.81
        assert uses.get("full", 0) < uses["face"]
        assert 1000 <= 4 * sum(uses.values()) <= 2000
    sizes = {name: (part.width, part.height) for name, (_, part) in number.items()}
    assert sizes == {"main": (448, 640), "face": (512, 512), "full": (448, 640)}
    assert "face_focus" in number["face"][1].prompts[0]
    assert sets.base_name("anything v5: RE/2") == "anything_v5_RE_2_BASE"


def test_captions_are_the_prompts_as_tags() -> None:
    prompt = "(masterpiece:1.2), 1girl, <lora:x:0.7> face_focus, ((smile)), 1girl"
    assert sets.caption_of(prompt) == "masterpiece, 1girl, face focus, smile"
    assert sets.varied("{a|b}, {c|d}", 3) == sets.varied("{a|b}, {c|d}", 3)
    assert {sets.varied("{a|b}", seed) for seed in range(9)} == {"a", "b"}


def test_every_wrong_field_is_named(project: Project) -> None:
    with pytest.raises(UserErrors) as told:
        sets.regularisation("x", [" "], 0, 1, 100, steps=0, seed=-1, cfg_scale=True)
    assert {error.where for error in told.value.errors} == {
        *("count", "width", "height", "prompts", "seed", "steps", "cfg_scale"),
    }
    with pytest.raises(UserError, match="no name"):
        sets.regularisation("///", ["a"], 1)
    with pytest.raises(UserError, match="no such set"):
        sets.find(project, "../../x")
    order = sets.begin(project, woman())
    file = project.work / "sets" / f"{order.id}.json"
    file.write_text(file.read_text().replace("reg/3_hina woman", "reg/../../out"))
    assert sets.known(project) == []


def test_it_is_drawn_on_a_checkpoint_by_the_command_line(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded checkpoint, or a narrow one of random weights."""
    pytest.importorskip("diffusers")
    from lora_train.cli import main
    from lora_train.paths import MINI_CHECKPOINT
    from tests.support import checkpoint

    file = MINI_CHECKPOINT if MINI_CHECKPOINT.is_file() else checkpoint(tmp_path / "narrow.safetensors")
    common = ["make-set", str(project.root), "--checkpoint", str(file)]
    wanted = ["--name", "thing", "--prompt", "a {smile|hat}", "--count", "3", "--side", "64", "--steps", "1"]
    assert main([*common, *wanted]) == 0
    pictures = sorted((project.reg / "1_thing").glob("*.png"))
    assert [loaded(path).size for path in pictures] == [(64, 64)] * 3
    assert len({path.read_bytes() for path in pictures}) == 3
    first = pictures[0].read_bytes()
    pictures[0].unlink()
    assert main([*common, "--go-on", "set1"]) == 0
    assert loaded(pictures[0]).tobytes() == loaded_bytes(first)
    assert main([*common, "--list"]) == 0
    assert "set1: 3 of 3 pictures in reg/1_thing" in capsys.readouterr().out
    assert main([*common, "--name", "", "--prompt", "x"]) == 2


def loaded_bytes(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()
