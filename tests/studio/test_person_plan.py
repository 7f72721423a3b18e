"""Steps, repeats and epochs of a person's folders, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_train import cli
from lora_train.dataset.folders import scan
from lora_train.errors import UserError, UserErrors
from lora_train.plan import steps as reckoning
from lora_train.settings import TrainSettings
from lora_train.studio.person_plan import Part, clean, of_dataset, plan, suggested, with_epochs, with_repeats


def test_the_seeds_figures() -> None:
    assert plan([Part("hina", 98, 100)], epochs=10).steps == 98_000
    assert plan([Part("hina wife a woman", 20, 100), Part("hina portrait", 50, 20)], epochs=8).steps == 3_000 * 8
    backwards = with_repeats([Part("ScarlettJohansson", 32)], steps=4800, epochs=10)
    assert [folder.folder for folder in backwards.folders] == ["15_ScarlettJohansson"]
    assert (backwards.steps, backwards.notes) == (4800, ())
    assert with_epochs([Part("hina", 100, 30)], steps=30_000).epochs == 10


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_there_and_back(pictures: int, repeats: int, epochs: int, batch: int) -> None:
    there = plan([Part("a", pictures, repeats)], epochs, batch)
    assert there.steps == -(-pictures * repeats // batch) * epochs
    assert with_epochs([Part("a", pictures, repeats)], there.steps, batch).epochs == epochs
    back = with_repeats([Part("a", pictures)], there.steps, epochs, batch)
    if batch == 1:
        assert back.folders[0].repeats == repeats
    assert abs(back.steps - there.steps) <= pictures * epochs  # less than one repeat away


def test_regularisation_is_named_to_match_and_reckoned_in() -> None:
    made = plan([Part("hina woman", 20, 10, reg=50), Part("hina shoes", 5, 4)], epochs=3)
    assert [(f.folder, f.reg_folder) for f in made.folders] == [("10_hina woman", "4_hina woman"), ("4_hina shoes", "")]
    assert made.steps == (200 + 20) * 2 * 3
    assert any("regularisation" in note for note in made.notes)


def test_concepts_keep_their_proportion() -> None:
    made = with_repeats([Part("a", 20, 100), Part("b", 50, 20)], steps=8000, epochs=8)
    assert [folder.repeats for folder in made.folders] == [33, 7]
    assert abs(made.steps - 8000) < 8 * 50


def test_as_the_plan_of_the_folders_that_are_then_made(tmp_path: Path) -> None:
    made = plan([Part("hina", 3, 4, reg=2), Part("cape", 2, 5)], epochs=2, batch_size=2)
    for inner, numbers in (("image", [(f.folder, f.pictures) for f in made.folders]), ("reg", [("6_hina", 2)])):
        for name, count in numbers:
            (tmp_path / inner / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (512, 512)).save(tmp_path / inner / name / f"{number}.png")
    dataset = scan(tmp_path)
    really = reckoning.plan(TrainSettings(max_train_epochs=2, train_batch_size=2), _batched(dataset, 2))
    assert (made.images, made.steps) == (really.images, really.steps)
    parts = of_dataset(dataset)
    assert sorted((p.name, p.pictures, p.repeats, p.reg) for p in parts) == [("cape", 2, 5, 0), ("hina", 3, 4, 2)]


def _batched(dataset, size):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    concepts = tuple(replace(c, frame=replace(c.frame, batch_size=size)) for c in dataset.concepts)
    return replace(dataset, concepts=concepts)


def test_what_is_unusual_is_said() -> None:
    notes = " ".join(plan([Part("a", 98, 100)], epochs=10).notes)
    assert "repeats 100" in notes
    assert "steps 98,000" in notes
    assert "epochs" not in notes


def test_names() -> None:
    assert suggested("hina", "wife a woman", ("face", "body", "clothes", "shoes", "cape")) == {
        "face": "hina wife a woman",
        "body": "hina portrait",
        "clothes": "hina clothing",
        "shoes": "hina shoes",
        "cape": "hina cape",
    }
    assert suggested("日奈") == {"face": "日奈"}
    assert clean(' a/b:c  "d"\n.') == "a b c d"
    with pytest.raises(UserError):
        suggested("/")


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ([], "concepts"),
        ([Part("a", 0)], "pictures"),
        ([Part("a", 1, 0)], "repeats"),
        ([Part("a", 1, 1, -1)], "reg"),
        ([Part("a/b", 1)], "name"),
        ([Part("", 1)], "name"),
        ([Part("a", 1), Part("a", 2)], "name"),
    ],
)
def test_nonsense_is_named(parts: list[Part], where: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(parts)
    assert caught.value.where == where
    for steps in (0, 10**10, True):
        with pytest.raises(UserError):
            with_repeats([Part("a", 1)], steps)
    for epochs in (0, 10**6):
        with pytest.raises(UserError):
            plan([Part("a", 1)], epochs)


def test_from_a_form() -> None:
    assert Part.from_dict({"name": "a", "pictures": 3}) == Part("a", 3)
    with pytest.raises(UserErrors) as caught:
        Part.from_dict({"name": 1, "pictures": "3", "repeats": True, "reg": 1.5, "x": 1})
    assert [error.where for error in caught.value.errors] == ["name", "pictures", "repeats", "reg", "x"]


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    assert "image/15_hina" in run("plan-person", "hina=32", "--steps", "4800")
    assert "reg/4_hina woman" in run("plan-person", "hina woman=20:100:500", "--epochs", "8")
    assert json.loads(run("plan-person", "a=10:3", "--steps", "300", "--keep-repeats", "--json"))["epochs"] == 10
    (tmp_path / "3_hina").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "3_hina" / "a.png")
    assert "3_hina" in run("plan-person", str(tmp_path))
    for wrong in ("hina", "hina=x", "=3", "hina=3:1:1:1"):
        assert cli.main(["plan-person", wrong]) == 2
    made = json.loads(run("plan-style", "--main", "40", "--face", "10", "--full", "8", "--variants", "2,4", "--json"))
    assert made["solved"] is True
    assert "8 more faces" in run("plan-style", "--main", "30", "--class", "back=3")
    assert "BROKEN" in run("plan-style", "--main", "40", "--face", "10", "--repeats", "main=1")
    assert "10_anima face" in run("plan-style", "--main", "40", "--face", "10", "--name", "anima")
    for wrong in (["--main", "-1"], ["--variants", "a"], ["--repeats", "x"], []):
        assert cli.main(["plan-style", *wrong]) == 2
