import contextlib
import os
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_train.dataset import buckets, images
from lora_train.dataset.options import Frame
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore:Truncated File")
def test_a_file_cut_short_is_found_by_its_end(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    data = encoded(noise(200, 200), kind)
    for share in (0.001, 0.05, 0.3, 0.6, 0.95):
        path.write_bytes(data[: max(1, int(len(data) * share))])
        with pytest.raises(UserError, match=r"a\.png"):
            images.inspect(path)
    path.write_bytes(data + b"behind the end")
    assert images.inspect(path)[:2] == (200, 200)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_inspecting_reads_no_pixels(tmp_path: Path, kind: str) -> None:
    """Damage in the midst of a file, which only a decoder can see, is found when the picture is read."""
    path = tmp_path / "a.png"
    data = bytearray(encoded(noise(200, 200), kind))
    half = len(data) // 2
    data[half : half + 400] = b"\xff\x13" * 200
    path.write_bytes(data)
    assert images.inspect(path) == (200, 200, "")
    with pytest.raises(UserError, match="broken"):
        images.read(path)


def test_exif_behind_a_pngs_pixels_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    data = encoded(noise(48, 32), "PNG")
    assert read(tmp_path, data[:-12] + chunk + data[-12:]).shape[:2] == (48, 32)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("width", [1, 7, 31, 32, 33])
def test_the_end_of_a_bmp_is_known(tmp_path: Path, mode: str, width: int) -> None:
    path = tmp_path / "a.bmp"
    data = encoded(noise(width, 9).convert(mode), "BMP")
    path.write_bytes(data)
    assert images.inspect(path) == (width, 9, "")
    path.write_bytes(data[:-8])  # more than the padding of a row
    with pytest.raises(UserError):
        images.inspect(path)


def place(tmp_path: Path, picture: Image.Image, name: str = "a.png") -> Path:
    path = tmp_path / name
    picture.save(path)
    return path


SIDES = st.integers(4, 60)


@settings(max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.none() | st.integers())
def test_a_crop_is_a_part_of_the_scaled_picture(
    tmp_path_factory: pytest.TempPathFactory, w: int, h: int, width: int, height: int, alpha: bool, seed: int | None
) -> None:
    path = place(tmp_path_factory.mktemp("crop"), noise(w, h))
    fit = buckets.fit((w, h), Frame(width, height))
    crop = images.crop(path, fit, alpha=alpha, random=None if seed is None else Random(seed))
    assert crop.pixels.shape == (height, width, 3)
    assert crop.pixels.dtype == np.uint8
    assert crop.pixels.flags["C_CONTIGUOUS"]
    whole = images.resize(noise(w, h), fit.resized)
    assert np.array_equal(crop.pixels, whole[crop.top : crop.top + height, crop.left : crop.left + width])
    if seed is None:
        assert (crop.left, crop.top) == ((fit.resized[0] - width) // 2, (fit.resized[1] - height) // 2)
    assert (crop.mask is not None) == alpha
    assert crop.mask is None or (crop.mask == 255).all()
    flipped = crop.flipped()
    assert np.array_equal(flipped.pixels[:, ::-1], crop.pixels)
    assert flipped.pixels.flags["C_CONTIGUOUS"]


def test_random_crops_draw_as_kohya_does(tmp_path: Path) -> None:
    path = place(tmp_path, noise(100, 60))
    fit = buckets.Fit((32, 32), (100, 60), 0.0, (100, 60))
    crop, random = images.crop(path, fit, random=Random(5)), Random(5)
    assert (crop.left, crop.top) == (random.randint(0, 68), random.randint(0, 28))
    places = {(c.left, c.top) for n in range(60) for c in [images.crop(path, fit, random=Random(n))]}
    assert len(places) > 50
    high = place(tmp_path, noise(32, 60), "b.png")
    crop = images.crop(high, buckets.Fit((32, 32), (32, 60), 0.0, (32, 60)), random=Random(5))
    assert (crop.left, crop.top) == (0, Random(5).randint(0, 28))  # nothing to cut off in the width, so no draw


def test_transparency_is_a_mask_that_is_scaled_with_its_picture(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:, 30:, 3] = 255
    path = place(tmp_path, Image.fromarray(pixels))
    fit = buckets.fit((60, 40), Frame(20, 20))
    crop = images.crop(path, fit, alpha=True)
    assert crop.mask is not None
    assert (crop.mask[:, :10] == 0).all()
    assert (crop.mask[:, 10:] == 255).all()
    assert (crop.pixels[..., 0] == 200).all()  # the colours below are those that kohya trains on
    flipped = crop.flipped().mask
    assert flipped is not None
    assert (flipped[:, :10] == 255).all()
    plain = images.crop(path, fit)
    assert plain.mask is None
    assert (plain.pixels[:, :10] == 255).all()
    enlarged = images.crop(path, buckets.fit((60, 40), Frame(120, 80)), alpha=True)
    expected = np.asarray(Image.fromarray(pixels).resize((120, 80), Image.Resampling.LANCZOS))
    assert enlarged.mask is not None
    assert np.array_equal(np.dstack([enlarged.pixels, enlarged.mask]), expected)


def test_a_mask_picture_is_cut_as_its_picture_is(tmp_path: Path) -> None:
    path = place(tmp_path, noise(60, 40))
    mask = Image.new("RGB", (60, 40), (0, 255, 255))
    mask.paste((255, 0, 0), (20, 0, 40, 40))
    fit = buckets.fit((60, 40), Frame(40, 40))
    for name, picture in (("same.png", mask), ("double.png", mask.resize((120, 80), Image.Resampling.NEAREST))):
        crop = images.crop(path, fit, alpha=True, mask=place(tmp_path, picture, name))
        assert crop.mask is not None
        assert (crop.mask[:, 10:30] == 255).all()
        assert (crop.mask[:, :10] == 0).all()
    at_random = images.crop(path, fit, mask=tmp_path / "same.png", random=Random(1))
    assert at_random.mask is not None
    assert at_random.left != 10
    assert (at_random.mask[:, 20 - at_random.left : 40 - at_random.left] == 255).all()
    with pytest.raises(UserError, match=r"m\.png: the mask is 40 x 40"):
        images.crop(path, fit, mask=place(tmp_path, noise(40, 40), "m.png"))


def test_a_picture_that_has_changed_since_the_scan_is_named(tmp_path: Path) -> None:
    fit = buckets.fit((60, 40), Frame(40, 40))
    with pytest.raises(UserError, match=r"a\.png: it is 40 x 60 now"):
        images.crop(place(tmp_path, noise(40, 60)), fit)


def test_a_picture_of_the_size_asked_for_is_left_as_it_is() -> None:
    assert np.array_equal(images.resize(noise(48, 32), (48, 32)), np.asarray(noise(48, 32)))


def test_enlarging_is_lanczos() -> None:
    expected = noise(10, 20).resize((16, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(images.resize(noise(10, 20), (16, 32)), np.asarray(expected))


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
