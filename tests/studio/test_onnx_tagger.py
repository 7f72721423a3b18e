"""WD14 taggers: what a model is given and what becomes of its scores; with onnxruntime itself where it is there."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_train.dataset.tagging import TagOptions, Writing
from lora_train.errors import UserError
from lora_train.studio import captioning, captions, onnx_tagger
from lora_train.studio.onnx_tagger import OnnxTagger

NAMES = [("general", 9), ("red_sky", 0), ("blue", 0), ("hina_(game)", 4), ("solo", 0)]


class Model:
    """Scores the first picture's mean colours; remembers what it was given."""

    def __init__(self, shape: tuple[Any, ...] = ("batch", 8, 8, 3), tags: int = 5) -> None:
        self.shape, self.tags = shape, tags
        self.given: list[np.ndarray] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", shape=list(self.shape))]

    def run(self, names: None, feed: dict[str, Any], /) -> list[np.ndarray]:
        pixels = feed["input"]
        self.given.append(pixels)
        scores = np.zeros((len(pixels), self.tags), np.float32)
        mean = pixels.mean((1, 2)) / 255
        for at, value in enumerate((np.full(len(pixels), 0.99), mean[:, 2], mean[:, 0], np.full(len(pixels), 0.8))):
            scores[:, at] = value
        return [scores]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tagger's folder in the folder of taggers, and three pictures, one of them broken."""
    place = tmp_path / "taggers" / "wd"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(b"")
    rows = [f"{at},{name},{category},10" for at, (name, category) in enumerate(NAMES)]
    (place / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]), encoding="utf-8")
    Image.new("RGB", (16, 8), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def tag(folder: Path, model: Model, **options: Any) -> tuple[dict[str, str], list[str], list[Any]]:
    tagger = OnnxTagger(folder / "taggers", lambda path: model)
    told: list[Any] = []
    pictures = [folder / f"{name}.png" for name in ("red", "broken", "blue")]
    made = tagger.tag(pictures, TagOptions(**options), lambda *one: told.append(one), Event())
    return {path.stem: text for path, text in made.captions.items()}, list(map(str, made.problems)), told


def test_pictures_are_whole_on_white_and_blue_comes_first(folder: Path) -> None:
    model = Model()
    captions, problems, told = tag(folder, model, threshold=0.4)
    assert captions == {"red": "red sky, blue", "blue": "blue"}  # half of red's square is white
    assert len(problems) == 1
    assert "broken.png" in problems[0]
    assert [(done, total, path.stem) for done, total, path, _ in told] == [
        (1, 3, "red"),
        (2, 3, "broken"),
        (3, 3, "blue"),
    ]
    pixels = model.given[0]
    assert pixels.shape == (2, 8, 8, 3)
    assert pixels.dtype == np.float32
    assert pixels[0, 4, 4].tolist() == [0, 0, 255]
    assert pixels[0, 0, 0].tolist() == [255, 255, 255]


def test_ratings_are_never_told_and_names_only_where_they_are_sure(folder: Path) -> None:
    captions, _, _ = tag(folder, Model(), threshold=0.0)
    assert "general" not in captions["red"]
    assert "hina" not in captions["red"]
    assert "solo" in captions["red"]


def test_a_model_of_one_picture_at_a_time(folder: Path) -> None:
    model = Model((1, 8, 8, 3))
    captions, _, _ = tag(folder, model, threshold=0.6, batch_size=4)
    assert captions == {"red": "red sky", "blue": "blue"}
    assert [len(pixels) for pixels in model.given] == [1, 1]


def test_stopping(folder: Path) -> None:
    stop = Event()
    made = OnnxTagger(folder / "taggers", lambda path: Model()).tag(
        [folder / "red.png", folder / "blue.png"], TagOptions(batch_size=1), lambda *_: stop.set(), stop
    )
    assert made.stopped
    assert len(made.captions) == 1


@pytest.mark.parametrize(
    ("model", "told"), [(Model(tags=4), "scores 4 tags"), (Model(("n", 3, 8, 8)), "its input is"), (None, "no tagger")]
)
def test_what_does_not_fit_is_told(folder: Path, model: Model | None, told: str) -> None:
    if model is None:
        (folder / "taggers" / "wd" / "model.onnx").unlink()
    with pytest.raises(UserError, match=told):
        tag(folder, model or Model())


def test_a_list_of_tags_that_is_none(folder: Path) -> None:
    (folder / "taggers" / "wd" / "selected_tags.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"selected_tags\.csv"):
        tag(folder, Model())


def test_without_onnxruntime_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setattr(onnx_tagger, "available", lambda: False)
    tagger = OnnxTagger(folder / "taggers")
    assert "onnxruntime" in tagger.note()
    with pytest.raises(UserError, match="onnxruntime can't be imported"):
        tagger.tag([folder / "red.png"], TagOptions(), lambda *_: None, Event())


def test_onnxruntime_itself(folder: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime isn't there")
    onnx = pytest.importorskip("onnx", reason="onnx, which writes the model, isn't there")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.zeros((3, 5), np.float32)
    weights[2, 1] = weights[0, 2] = 1 / 255
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "taggers" / "wd" / "model.onnx")
    made = OnnxTagger(folder / "taggers").tag([folder / "red.png"], TagOptions(threshold=0.6), lambda *_: None, Event())
    assert made.captions == {folder / "red.png": "red sky"}


def test_its_captions_are_one_change_of_the_journal(folder: Path) -> None:
    (folder / "red.txt").write_text("mine", encoding="utf-8")
    table = captions.open_table(folder)
    tagger = OnnxTagger(folder / "taggers", lambda path: Model())
    told: list[tuple[int, int]] = []
    done = captioning.write(
        table, tagger, TagOptions(threshold=0.6), Writing("append", "hina"), progress=lambda *one: told.append(one)
    )
    assert done.counts == {"written": 2, "kept": 0, "same": 0}
    assert len(done.problems) == 1
    assert told[-1] == (3, 3)
    assert (folder / "red.txt").read_text(encoding="utf-8") == "hina, mine, red sky"
    assert captions.history(folder)[0].title == "captions: written by WD14 tagger (ONNX file)"
    captions.undo(folder, done.entry)
    assert [path.read_text(encoding="utf-8") for path in folder.glob("*.txt")] == ["mine"]
    nothing = OnnxTagger(folder / "nowhere")
    with pytest.raises(UserError, match="no tagger"):
        captioning.write(table, nothing, TagOptions(), Writing())
    assert len(captions.history(folder)) == 1
