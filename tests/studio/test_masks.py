"""Masks from transparency, by hand and by a remover: written where the training reads them, and taken back."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lora_train import cli
from lora_train.dataset import images
from lora_train.dataset.buckets import fit
from lora_train.dataset.source import open_dataset
from lora_train.errors import UserError
from lora_train.settings import from_dict
from lora_train.studio import masks
from lora_train.studio import project as projects

from .drawn import loaded, put, scene, tree


@pytest.fixture
def project(tmp_path) -> projects.Project:
    """Of two own pictures, one transparent on its left half."""
    made = projects.make(tmp_path / "p").project
    assert made is not None
    clear = scene(1, 80, 64).convert("RGBA")
    alpha = Image.new("L", (80, 64), 255)
    alpha.paste(0, (0, 0, 40, 64))
    clear.putalpha(alpha)
    put(made.image / "2_x" / "clear.png", clear)
    put(made.image / "2_x" / "plain.jpg", scene(2, 64, 96))
    return made


def paths(project: projects.Project) -> list[Path]:
    return [picture for concept in project.concepts() for picture in concept.pictures]


def test_transparency_becomes_a_mask_and_the_training_reads_it(project):
    done = masks.make(project, paths(project), "alpha")
    assert done.written == 1 and "transparent nowhere" in done.problems[0].what
    masks.use(project, True)
    assert masks.complete(project) == 1
    settings = from_dict({**projects.training(project), "resolution": 64})[0]
    concept = open_dataset(settings).concepts[0]
    assert [p.mask.name for p in concept.pictures] == ["clear.png", "plain.png"]
    seen = concept.pictures[0]
    crop = images.crop(seen.path, fit((seen.width, seen.height), concept.frame), mask=seen.mask)
    assert crop.mask is not None and crop.mask.shape == crop.pixels.shape[:2]
    assert not crop.mask[:, :20].any() and (crop.mask[:, -20:] == 255).all()
    masks.use(project, False)
    assert projects.training(project)["conditioning_data_dir"] == ""


def test_a_mask_is_made_again_inverted_taken_away_and_all_of_it_undone(project):
    originals = tree(project.image)
    picture = paths(project)[0]
    masks.make(project, [picture], "alpha")
    first = np.asarray(loaded(masks.find(project, picture)))
    masks.make(project, [picture], "invert")
    assert (np.asarray(loaded(masks.find(project, picture))) == 255 - first).all()
    assert masks.take_away(project, [picture]) == 1 and masks.find(project, picture) is None
    for title in ("mask taken away: clear.png", "mask of clear.png", "mask of clear.png"):
        assert projects.Project(project.root).journal.undo().entry.title == title
        found = masks.find(project, picture)
        assert (found is None) == (len(project.journal.entries()) == sum(e.undone for e in project.journal.entries()))
    assert tree(project.image) == originals


def test_masks_of_pictures_elsewhere_lie_in_the_project(tmp_path):
    put(tmp_path / "set" / "3_a" / "1.png", scene(1, 64, 64))
    put(tmp_path / "set" / "3_b" / "1.png", scene(2, 64, 64))
    before = tree(tmp_path / "set")
    project = projects.make(tmp_path / "set").project
    masks.use(project, True)
    assert masks.complete(project) == 2
    values = projects.training(project)
    assert values["train_data_dir"] == str(tmp_path / "set")
    dataset = open_dataset(from_dict({**values, "resolution": 64})[0])
    assert [p.mask.parent.name for c in dataset.concepts for p in c.pictures] == ["3_a", "3_b"]
    assert tree(tmp_path / "set") == before


def test_folders_of_one_name_keep_their_masks_apart(project, tmp_path):
    put(tmp_path / "set" / "2_x" / "clear.png", scene(5, 50, 50))
    projects.add(project, tmp_path / "set")
    masks.use(project, True)
    masks.make(project, [project.image / "2_x" / "clear.png"], "alpha")
    masks.complete(project)
    dataset = open_dataset(from_dict({**projects.training(project), "resolution": 64})[0])
    own, other = dataset.concepts
    assert own.pictures[0].mask.parent != other.pictures[0].mask.parent
    assert loaded(other.pictures[0].mask).size == (50, 50)
    put(project.reg / "1_x" / "r.png")
    with pytest.raises(UserError, match="no masks"):
        masks.folder(project, project.reg / "1_x")


def test_the_command_line_makes_masks_and_takes_them_away(project, capsys):
    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["mask", str(project.root), *words])
        return code, capsys.readouterr().out

    clear = str(project.image / "2_x" / "clear.png")
    assert run(clear, "--way", "alpha") == (0, "1 masks written\n")
    assert run("--train", "with")[1].startswith("1 white masks added; train with --conditioning_data_dir")
    assert run("--way", "remove", "--train", "without") == (0, "2 masks taken away\n")
    assert run(str(project.root / "x.png"), "--way", "alpha")[0] == 2


def test_without_rembg_its_absence_is_told(project, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rembg", None)
    monkeypatch.setattr(masks.importlib.util, "find_spec", lambda name: None)
    assert masks.removers() == []
    with pytest.raises(UserError, match="isn't installed"):
        masks.make(project, paths(project), "background")


class U2net:
    """A session of rembg's as far as it is used: it would fetch its file."""

    def __init__(self, model_name, sess_opts, *args, **kwargs):
        self.file = Path(type(self).download_models())
        if self.file.read_bytes() != b"model":
            raise RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : it failed\nand more")

    @classmethod
    def name(cls):
        return "u2net"

    @classmethod
    def download_models(cls, *args, **kwargs):
        raise AssertionError("the network was asked")


@pytest.fixture
def rembg(monkeypatch, tmp_path) -> Path:
    """A stand-in for the parts of rembg that are used, and its folder of models."""

    def remove(picture, session, only_mask):
        assert only_mask and session.file.is_file()
        return Image.new("L", picture.size, 9)

    sessions = SimpleNamespace(sessions_class=[U2net])
    stand_in = SimpleNamespace(remove=remove, sessions=sessions)
    options = SimpleNamespace(SessionOptions=SimpleNamespace)
    for name, module in (("rembg", stand_in), ("rembg.sessions", sessions), ("onnxruntime", options)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(masks.importlib.util, "find_spec", lambda name: stand_in)
    monkeypatch.setattr(masks, "_LOADED", {})
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    return tmp_path / "models"


def test_rembg_is_used_with_models_that_are_there(project, rembg, tmp_path):
    rembg.mkdir()
    for name in ("u2net", "silueta", "u2net_cloth_seg", "mine"):
        (rembg / f"{name}.onnx").write_bytes(b"model")
    (rembg / "u2netp.onnx").touch()
    assert masks.removers() == ["u2net", "silueta"] and masks.lacking() is None
    assert masks.make(project, paths(project), "background").written == 2
    assert loaded(masks.find(project, paths(project)[0])).getpixel((0, 0)) == 9
    (tmp_path / "webui" / "u2net").mkdir(parents=True)
    (tmp_path / "webui" / "u2net" / "isnet-anime.onnx").write_bytes(b"model")
    assert masks.removers([tmp_path / "webui"]) == ["u2net", "isnet-anime", "silueta"]


def test_a_model_that_is_missing_is_asked_for_by_name_and_place(rembg):
    problem = masks.lacking()
    assert problem is not None and "u2net.onnx" in problem.remedy and str(rembg) in problem.remedy
    with pytest.raises(UserError, match="no model"):
        masks.remover()
    rembg.mkdir()
    (rembg / "u2net.onnx").write_bytes(b"model")
    with pytest.raises(UserError, match="no model u2netp") as wrong:
        masks.remover("u2netp")
    assert "u2netp.onnx" in wrong.value.remedy
    with pytest.raises(UserError, match="tells front from back"):
        masks.remover("sam")


def test_a_model_s_file_that_is_broken_is_told_and_never_replaced(rembg):
    rembg.mkdir()
    file = rembg / "u2net.onnx"
    file.write_bytes(b"half")
    with pytest.raises(UserError, match="isn't the file that rembg published") as wrong:
        masks.remover()
    assert masks.REMOVERS["u2net"] in wrong.value.what and file.read_bytes() == b"half"


def test_rembg_that_ends_the_program_is_told(rembg, monkeypatch):
    """What it does where onnxruntime is missing."""
    rembg.mkdir()
    (rembg / "u2net.onnx").write_bytes(b"model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(masks.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UserError, match="needs onnxruntime"):
        masks.remover()


def test_rembg_s_folder_may_be_of_the_home(rembg, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("U2NET_HOME", "~/models")
    rembg.mkdir()
    (rembg / "u2net.onnx").write_bytes(b"model")
    assert masks.removers() == ["u2net"]


def test_rembg_itself(project, monkeypatch, tmp_path):
    """A network of u2net's shape, which takes what is bright for the front."""
    pytest.importorskip("rembg", reason="rembg isn't there", exc_type=ImportError)
    onnx = pytest.importorskip("onnx", reason="onnx, which writes the model, isn't there")
    write_u2net(onnx, tmp_path / "u2net.onnx")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    bright = Image.new("RGB", (90, 60), "black")
    bright.paste((255, 250, 240), (30, 0, 90, 60))
    put(paths(project)[0], bright)
    assert masks.make(project, paths(project)[:1], "background").written == 1
    mask = loaded(masks.find(project, paths(project)[0]))
    assert mask.size == (90, 60) and mask.getpixel((10, 30)) < 20 and mask.getpixel((80, 30)) > 235
    (tmp_path / "u2net.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="isn't the file that rembg published"):
        masks.remover("u2net")
    assert (tmp_path / "u2net.onnx").read_bytes().startswith(b"<html>")


def write_u2net(onnx, file: Path) -> None:
    """Input input.1 [batch, 3, 320, 320], seven outputs [batch, 1, 320, 320] as u2net's."""
    helper = onnx.helper
    outputs = [str(1959 + n) for n in range(7)]
    nodes = [
        helper.make_node("ReduceMean", ["input.1"], ["mean"], axes=[1], keepdims=1),
        *(helper.make_node("Sigmoid", ["mean"], [name]) for name in outputs),
    ]
    kind, sides = onnx.TensorProto.FLOAT, [320, 320]
    graph = helper.make_graph(
        nodes,
        "u2net",
        [helper.make_tensor_value_info("input.1", kind, ["batch", 3, *sides])],
        [helper.make_tensor_value_info(name, kind, ["batch", 1, *sides]) for name in outputs],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
