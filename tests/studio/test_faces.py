"""Our own face detector: what it finds in photographs and drawings, and that no picture breaks it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_train import cli, paths
from lora_train.errors import UserError
from lora_train.studio import crops, faces
from lora_train.studio.cascade import Cascade
from lora_train.studio.drawn_faces import STRIDES, Network

from .drawn import face, loaded, put, scene

CASCADE = paths.FACES / "haarcascade_frontalface_alt2.xml.gz"
NETWORK = paths.FACES / "drawn.npz"
DOGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "dreambooth" / "dog"


@pytest.fixture(scope="module")
def detect() -> crops.Detect:
    return faces.detector("bundled").detect


def middle(found: crops.Face) -> tuple[float, float]:
    return found.box.left + found.box.width / 2, found.box.top + found.box.height / 2


@pytest.mark.parametrize("height", [60, 160, 330])
def test_a_face_with_light_and_shade_is_found(detect, height):
    found = detect(face(height=height, at=(200, 190)))
    assert len(found) == 1
    x, y = middle(found[0])
    assert abs(x - 200) < 0.2 * height and abs(y - 190) < 0.3 * height and 0.6 < found[0].box.height / height < 1.4


def test_drawn_characters_are_found(detect):
    """Of the demo's ten dolls, which are 64 pixels large, some; none is seen where it isn't."""
    found = [crops.faces_of(path, detect)[1] for path in sorted(paths.DEMO_PICTURES.rglob("*.png"))]
    right = [one for one in found if one and abs(middle(one[0])[0] - 32) < 8 and abs(middle(one[0])[1] - 33) < 10]
    assert len(found) == 10 and len(right) >= 4 and len(right) == sum(map(bool, found))


def test_where_there_is_no_face_none_is_found(detect):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    pictures = [scene(n, 320, 240) for n in range(3)] + [Image.new("RGB", (300, 300), "grey"), Image.fromarray(noise)]
    assert [detect(picture) for picture in pictures] == [[]] * 5


@pytest.mark.skipif(not DOGS.is_dir(), reason="the photographs aren't here")
def test_dogs_have_no_faces_of_people(detect):
    assert [crops.faces_of(path, detect)[1] for path in sorted(DOGS.glob("*.jpg"))] == [[]] * 5


def test_no_picture_breaks_it(detect, tmp_path):
    person = face(300, (150, 150), 150)
    alpha = person.convert("RGBA")
    alpha.putalpha(255)
    for mode, picture in (("L", person.convert("L")), ("P", person.convert("P")), ("RGBA", alpha)):
        size, found = crops.faces_of(put(tmp_path / f"{mode}.png", picture), detect)
        assert size == (300, 300) and len(found) == 1, mode
    turned = put(tmp_path / "turned.jpg", person.transpose(Image.Transpose.ROTATE_90), exif=orientation(6))
    assert abs(middle(crops.faces_of(turned, detect)[1][0])[1] - 150) < 40
    for size in ((10, 10), (1, 1), (600, 3), (40, 24)):
        assert detect(Image.new("RGB", size, "red")) == []
    huge = put(tmp_path / "huge.jpg", person.resize((5000, 4000)))
    size, found = crops.faces_of(huge, detect)
    assert size == (5000, 4000) and abs(middle(found[0])[0] - 2500) < 300


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_it_is_quick(detect):
    picture = scene(4, 1024, 768)
    detect(picture)
    start = time.process_time()
    detect(picture)
    assert time.process_time() - start < 1


def test_the_command_line_cuts_heads_without_opencv(tmp_path, monkeypatch):
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    picture = put(tmp_path / "pics" / "a.png", face(400, (200, 180), 160))
    assert cli.main(["project", "make", str(tmp_path / "p"), "--data-dir", str(tmp_path / "d")]) == 0
    common = ["crop", str(picture), "--project", str(tmp_path / "p"), "--side", "128", "--into"]
    assert cli.main([*common, "10_hina", "--way", "head"]) == 0
    assert loaded(tmp_path / "p" / "image" / "10_hina" / "a.png").size == (128, 128)
    assert cli.main([*common, "10_hina", "--way", "parts"]) == 0
    assert (tmp_path / "p" / "image" / "10_hina face" / "a-face.png").is_file()


# Its two halves


def test_the_cascade_sees_what_opencv_sees():
    cv2 = pytest.importorskip("cv2")
    grey = face().convert("L")
    reader = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"))
    theirs = reader.detectMultiScale(np.asarray(grey), 1.1, 5, 0, (40, 40))
    ours = Cascade(CASCADE).look(grey, 40, agree=5).squares
    assert len(theirs) == len(ours) == 1 and np.abs(theirs[0][:3] - ours[0]).max() < 12


PATTERNS = """<?xml version="1.0"?><opencv_storage><cascade>
<featureType>LBP</featureType><height>9</height><width>9</width>
<stages><_><stageThreshold>0.5</stageThreshold><weakClassifiers><_>
<internalNodes>0 -1 0 {bits}</internalNodes><leafValues>1. 0.</leafValues></_></weakClassifiers></_></stages>
<features><_><rect>0 0 3 3</rect></_></features></cascade></opencv_storage>"""


@pytest.mark.parametrize(("code", "bright"), [(128, (0, 0)), (64, (1, 0)), (16, (2, 1)), (8, (2, 2)), (1, (0, 1))])
def test_binary_patterns_go_round_from_the_top_left_block(tmp_path, code, bright):
    """The subset holds one pattern: only that block of nine is as bright as the middle."""
    words = [0] * 8
    words[code >> 5] = 1 << (code & 31)
    file = tmp_path / "a.xml"
    file.write_text(PATTERNS.format(bits=" ".join(str(w - 2**32 if w >= 2**31 else w) for w in words)))
    picture = Image.new("L", (9, 9), 20)
    picture.paste(100, (3, 3, 6, 6))
    picture.paste(200, (bright[0] * 3, bright[1] * 3, bright[0] * 3 + 3, bright[1] * 3 + 3))
    assert len(Cascade(file).look(picture, 9, agree=1).squares) == 1
    assert len(Cascade(file).look(picture.rotate(180), 9, agree=1).squares) == 0


def test_what_is_no_cascade_is_said(tmp_path):
    for name, text in (("a.xml", "<html>"), ("b.xml", "<a/>"), ("c.xml.gz", "\x1f")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"read|no cascade"):
            Cascade(tmp_path / name)


def test_the_network_reckons_as_torch_does():
    torch = pytest.importorskip("torch")
    network = Network(NETWORK)
    pixels = np.random.default_rng(0).uniform(-1, 1, (37, 52, 3)).astype(np.float32)
    seen = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for (weight, bias), stride in zip(network.layers, STRIDES, strict=True):
        kernels = torch.from_numpy(weight.T.reshape(len(bias), -1, 3, 3).copy())
        seen = torch.relu(torch.nn.functional.conv2d(seen, kernels, torch.from_numpy(bias), stride, 1))
    assert np.abs(network.seen(pixels) - seen[0].permute(1, 2, 0).numpy()).max() < 1e-4


def test_a_network_s_file_that_is_none(tmp_path, monkeypatch):
    (tmp_path / CASCADE.name).write_bytes(CASCADE.read_bytes())
    (tmp_path / "drawn.npz").write_bytes(b"nothing")
    monkeypatch.setattr(paths, "FACES", tmp_path)
    with pytest.raises(UserError, match="can't be loaded"):
        faces.detector("bundled")
