import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_train.dataset import images
from lora_train.errors import UserError

from .pictures import encoded, noise

UNDONE = {
    1: lambda p: p,
    2: lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda p: p.transpose(Image.Transpose.ROTATE_180),
    4: lambda p: p.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda p: p.transpose(Image.Transpose.TRANSPOSE),
    6: lambda p: p.transpose(Image.Transpose.ROTATE_90),
    7: lambda p: p.transpose(Image.Transpose.TRANSVERSE),
    8: lambda p: p.transpose(Image.Transpose.ROTATE_270),
}


def read(tmp_path: Path, data: bytes, name: str = "a.png") -> np.ndarray:
    path = tmp_path / name
    path.write_bytes(data)
    picture = images.read(path)
    assert picture.mode == "RGB"
    assert images.inspect(path)[:2] == picture.size
    return np.asarray(picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_exif_orientation_equals_the_upright_picture(
    tmp_path: Path, orientation: int, kind: str, options: dict[str, object]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = UNDONE[orientation](noise())
    data = encoded(stored, kind, exif=exif, **options)
    assert np.array_equal(read(tmp_path, data), np.asarray(noise()))


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = UNDONE[orientation](Image.linear_gradient("L").resize((64, 32)).convert("RGB"))
        data = encoded(stored, "JPEG", exif=exif, quality=95)
        expected = np.asarray(Image.linear_gradient("L").resize((64, 32)).convert("RGB"))
        assert np.abs(read(tmp_path, data).astype(int) - expected).max() < 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_changes_nothing(tmp_path: Path) -> None:
    good = encoded(noise(), "JPEG")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"
    data = good[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + good[2:]
    assert np.array_equal(read(tmp_path, data), read(tmp_path, good))


def test_transparency_is_white_in_every_mode(tmp_path: Path) -> None:
    for mode, clear in (("RGBA", (255, 0, 0, 0)), ("LA", (9, 0))):
        assert (read(tmp_path, encoded(Image.new(mode, (4, 4), clear), "PNG")) == 255).all()
    half = read(tmp_path, encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG"))
    assert np.abs(half[0, 0].astype(int) - [255, 127, 127]).max() <= 1
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert (read(tmp_path, encoded(palette, "PNG", transparency=1)) == 255).all()
    assert (read(tmp_path, encoded(palette, "GIF", transparency=1)) == 255).all()
    assert (read(tmp_path, encoded(palette, "PNG", transparency=0)) == [0, 255, 0]).all()
    assert (read(tmp_path, encoded(Image.new("RGB", (4, 4), "red"), "PNG", transparency=(255, 0, 0))) == 255).all()
    assert (read(tmp_path, encoded(Image.new("L", (4, 4), 7), "PNG", transparency=7)) == 255).all()


def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = read(tmp_path, encoded(Image.fromarray(ramp), kind))
        assert abs(pixels.mean() - 127.5) < 0.5
        assert (pixels[0, 0] == 0).all()
        assert (pixels[-1, -1] == 255).all()


def test_grey_bilevel_and_cmyk(tmp_path: Path) -> None:
    assert (read(tmp_path, encoded(Image.new("L", (4, 4), 77), "PNG")) == 77).all()
    assert (read(tmp_path, encoded(Image.new("1", (4, 4), 1), "PNG")) == 255).all()
    for colour, rgb in (((0, 255, 255, 0), [255, 0, 0]), ((0, 0, 0, 255), [0, 0, 0]), ((0, 0, 0, 0), [255, 255, 255])):
        for kind in ("JPEG", "TIFF"):
            pixels = read(tmp_path, encoded(Image.new("CMYK", (16, 16), colour), kind))
            assert np.abs(pixels.astype(int) - rgb).max() <= 4


def test_modes_without_a_known_range_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png: its kind of pixels \(F\)"):
        read(tmp_path, encoded(Image.new("F", (4, 4), 0.5), "TIFF"))
    with pytest.raises(UserError, match="32-bit"):
        read(tmp_path, encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (read(tmp_path, data) == [255, 0, 0]).all()
    assert "first" in images.inspect(tmp_path / "a.png")[2]


@pytest.mark.filterwarnings("ignore:Truncated File")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_named(tmp_path: Path, kind: str) -> None:
    data = encoded(noise(200, 200), kind)
    for share in (0.001, 0.05, 0.3, 0.6, 0.95):
        with pytest.raises(UserError, match=r"a\.png"):
            read(tmp_path, data[: max(1, int(len(data) * share))])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"this is not a picture", "no JPEG, PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no JPEG, PNG"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read(tmp_path, data, "a.jpg")


def test_missing_folders_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UserError):
            images.read(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UserError, match="regular"):
            images.read(tmp_path / "pipe.png")


def header_only_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", [None, Image.MAX_IMAGE_PIXELS])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for width, height, what in (
        (10_000, 10_000, "million pixels"),
        (30_000, 30_000, "million pixels"),
        (1, 80_000, "as long as wide"),
    ):
        with pytest.raises(UserError, match=what):
            read(tmp_path, header_only_png(width, height))


@pytest.mark.filterwarnings("ignore::Warning")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_flipped_bytes_give_a_picture_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray(encoded(noise(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flipped") / "a.png"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        images.inspect(path)


@settings(max_examples=60)
@given(*(st.integers(1, 60) for _ in range(4)))
def test_cover_crop_has_the_size_asked_for(w: int, h: int, width: int, height: int) -> None:
    pixels = images.cover_crop(noise(w, h), width, height)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([(512, 512), (768, 512), (256, 1024), (320, 704)]))
def test_the_covering_size_covers_and_touches(w: int, h: int, target: tuple[int, int]) -> None:
    size = images.covering_size((w, h), *target)
    assert size[0] >= target[0]
    assert size[1] >= target[1]
    assert size[0] == target[0] or size[1] == target[1]


def test_a_picture_of_the_size_asked_for_is_left_as_it_is() -> None:
    assert np.array_equal(images.cover_crop(noise(48, 32), 48, 32), np.asarray(noise(48, 32)))
    wide = images.cover_crop(noise(53, 32), 48, 32)
    assert np.array_equal(wide, np.asarray(noise(53, 32))[:, 2:50])


def test_enlarging_is_lanczos_and_cropped_at_the_centre() -> None:
    expected = noise(10, 20).resize((16, 32), Image.Resampling.LANCZOS).crop((0, 8, 16, 24))
    assert np.array_equal(images.cover_crop(noise(10, 20), 16, 16), np.asarray(expected))


@pytest.mark.parametrize("factor", [3, 4, 7])
def test_whole_factors_are_plain_means(factor: int) -> None:
    pixels = np.asarray(noise(12 * factor, 8 * factor))
    blocks = pixels.reshape(8, factor, 12, factor, 3).transpose(0, 2, 4, 1, 3).reshape(8, 12, 3, -1).astype(int)
    assert np.array_equal(images.area_resize(pixels, 12, 8), np.rint(blocks.sum(-1) / factor**2))


def test_halves_go_up_when_both_sides_are_halved() -> None:
    pixels = np.array([[[0], [1]], [[1], [0]]], np.uint8)
    assert images.area_resize(pixels, 1, 1).item() == 1
    assert images.area_resize(np.array([[[0]], [[1]]], np.uint8), 1, 1).item() == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255), st.data())
def test_area_averaging_keeps_a_flat_colour(w: int, h: int, value: int, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, w)), data.draw(st.integers(1, h))
    flat = np.full((h, w, 3), value, np.uint8)
    assert (images.area_resize(flat, width, height) == value).all()


# cv2.resize(…, (5, 3), interpolation=cv2.INTER_AREA) of (arange(7 * 8) * 37 % 256) as 7 rows of 8, by OpenCV 5.0.0
OPENCV = [[42, 98, 158, 159, 59], [134, 180, 122, 63, 109], [184, 84, 85, 145, 201]]


def test_fractional_coverage_equals_opencv() -> None:
    pixels = (np.arange(7 * 8) * 37 % 256).astype(np.uint8).reshape(7, 8, 1)
    assert images.area_resize(pixels, 5, 3)[..., 0].tolist() == OPENCV
