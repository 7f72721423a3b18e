"""Pictures to latents on a narrow VAE: kept, on disk, and fresh at every use."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.dataset.buckets import sdxl_sizes
from lora_train.dataset.options import Frame
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from lora_train.model.load import load_model
from lora_train.settings import TrainSettings
from lora_train.train import latent_files, latents
from lora_train.train.data import TrainingData
from lora_train.train.latents import CachedLatents, Encoder, FreshLatents, Shot, prepare_latents, view_of
from lora_train.train.noise import generator
from tests import support

BUCKETS = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(support.checkpoint(tmp_path_factory.mktemp("vae") / "narrow.safetensors"))


def settings_of(**changes):
    return TrainSettings(**{"resolution": (64, 64), "train_batch_size": 4, "max_train_epochs": 1, "seed": 5, **changes})


def dataset_of(folder, settings, sizes=((64, 64),) * 3, mode="RGB", **fields):
    """Noisy pictures of these sizes in `folder`, as one concept."""
    folder.mkdir(exist_ok=True)
    pictures = []
    for n, (width, height) in enumerate(sizes):
        path = folder / f"{n}.png"
        values = np.random.default_rng(n).integers(0, 256, (height // 4, width // 4, len(mode)), dtype=np.uint8)
        Image.fromarray(values, mode).resize((width, height)).save(path)
        pictures.append(Picture(path, f"number {n}", width, height))
    concept = Concept(folder, "x", 1, tuple(pictures), frame=Frame.of(settings), **fields)
    return Dataset(folder, (concept,), ())


def shots_of(dataset, **fields):
    return [Shot(view_of(c, p), **fields) for c in dataset.concepts for p in c.pictures]


def posterior(model, picture, mirrored=False):
    """What the VAE says of a 64 x 64 picture file, the plain way."""
    pixels = torch.tensor(np.asarray(Image.open(picture.path).convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
    with torch.no_grad():
        dist = model.vae.encode((pixels.flip(-1) if mirrored else pixels)[None]).latent_dist
    return dist.mean[0], dist.std[0]


def test_latents_are_one_sample_by_seed_and_place(model, tmp_path):
    settings = settings_of()
    dataset = dataset_of(tmp_path, settings, flip=True)
    told = []
    kept = prepare_latents(model, dataset, settings, progress=lambda *now: told.append(now))
    assert isinstance(kept, CachedLatents) and not kept.needs_vae and kept.dataset is dataset
    assert told == [(1, 3), (2, 3), (3, 3)]
    rows = kept.rows(shots_of(dataset))
    mirrored = kept.rows(shots_of(dataset, flipped=True))
    assert rows.latents.dtype is torch.float32 and rows.masks is None and rows.sizes is None
    for place, picture in enumerate(dataset.concepts[0].pictures):
        mean, std = posterior(model, picture)
        noise = torch.randn(1, 4, 8, 8, generator=generator(5, place))[0]
        torch.testing.assert_close(rows.latents[place], mean + std * noise)
        mean, std = posterior(model, picture, mirrored=True)
        noise = torch.randn(1, 4, 8, 8, generator=generator(5, place, 1))[0]
        torch.testing.assert_close(mirrored.latents[place], mean + std * noise)


def test_other_settings_of_work_change_nothing_and_another_seed_does(model, tmp_path, monkeypatch):
    sizes = ((64, 64), (256, 64), (64, 64), (64, 250), (256, 64), (64, 64))
    dataset = dataset_of(tmp_path, settings_of(**BUCKETS), sizes)

    def encoded(at_once=1, **changes):
        monkeypatch.setattr(latents, "_AHEAD", at_once)
        make = Encoder.__init__

        def init(self, *args):
            make(self, *args)
            self.at_once = at_once

        monkeypatch.setattr(Encoder, "__init__", init)
        kept = prepare_latents(model, dataset, settings_of(**BUCKETS, **changes))
        return [kept.rows([shot]).latents for shot in shots_of(dataset)]

    first = encoded()
    assert {tuple(x.shape) for x in first} == {(1, 4, 8, 8), (1, 4, 4, 16), (1, 4, 16, 4)}
    for at_once in (2, 3, 10):
        for a, b in zip(first, encoded(at_once), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.equal(first[0], encoded(seed=6)[0])


def test_a_picture_of_two_folders_is_encoded_once_for_each_form(model, tmp_path):
    settings = settings_of(**BUCKETS)
    first = dataset_of(tmp_path, settings).concepts[0]
    other = replace(first, frame=replace(first.frame, width=96, height=96), group=1)
    dataset = Dataset(tmp_path, (first, first, other), ())
    told = []
    kept = prepare_latents(model, dataset, settings, progress=lambda *now: told.append(now))
    assert told[-1] == (6, 6)
    assert kept.rows(shots_of(dataset)[6:]).latents.shape == (3, 4, 12, 12)


def test_sizes_for_sdxl_alone(model, tmp_path):
    settings = settings_of(**BUCKETS)
    dataset = dataset_of(tmp_path, settings, ((256, 64), (250, 60)), flip=True)
    xl = replace(model, family=Family.SDXL)
    for kept in (prepare_latents(xl, dataset, settings), FreshLatents(xl, dataset, settings, print)):
        for flipped in (False, True):
            sizes = kept.rows(shots_of(dataset, flipped=flipped)).sizes
            assert sizes.tolist() == [list(sdxl_sizes(size, (128, 32), flipped)) for size in ((256, 64), (250, 60))]
    assert prepare_latents(model, dataset, settings).rows(shots_of(dataset)).sizes is None


def with_mask(dataset, index, left=0):
    """A mask of the picture with this index: white from `left` on."""
    (concept,) = dataset.concepts
    path = dataset.root / "masks" / f"{index}.png"
    path.parent.mkdir(exist_ok=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, left:] = 255
    Image.fromarray(mask).save(path)
    pictures = list(concept.pictures)
    pictures[index] = replace(pictures[index], mask=path)
    return replace(dataset, concepts=(replace(concept, pictures=tuple(pictures)),))


@pytest.mark.parametrize("cached", [True, False])
def test_masks_are_averaged_to_the_latents_size_and_mirrored(model, tmp_path, cached):
    settings = settings_of(cache_latents=cached)
    dataset = with_mask(dataset_of(tmp_path, settings, flip=True), 1, left=12)
    kept = prepare_latents(model, dataset, settings)
    masks = kept.rows(shots_of(dataset)).masks
    assert masks.shape == (3, 1, 8, 8)
    assert (masks[[0, 2]] == 1).all()
    assert masks[1, 0, 3].tolist() == [0, 0.5, 1, 1, 1, 1, 1, 1]
    assert kept.rows(shots_of(dataset, flipped=True)).masks[1, 0, 3].tolist() == [1, 1, 1, 1, 1, 1, 0.5, 0]
    assert kept.rows(shots_of(dataset)[:1]).masks is None


def test_transparency_is_a_mask_where_the_folder_says_so(model, tmp_path):
    settings = settings_of()
    dataset = dataset_of(tmp_path, settings, mode="RGBA", alpha_mask=True)
    alpha = np.asarray(Image.open(dataset.concepts[0].pictures[0].path))[..., 3] / 255
    masks = prepare_latents(model, dataset, settings).rows(shots_of(dataset)).masks
    torch.testing.assert_close(masks[0, 0, 0, 0].item(), alpha[:8, :8].mean(), rtol=1e-5, atol=1e-6)
    plain = replace(dataset, concepts=(replace(dataset.concepts[0], alpha_mask=False),))
    assert prepare_latents(model, plain, settings).rows(shots_of(plain)).masks is None


# On disk


class Counted:
    """How many pictures the VAE saw."""

    def __init__(self, monkeypatch):
        self.pictures = 0
        encode = Encoder._encode

        def counting(encoder, crops):
            self.pictures += len(crops)
            return encode(encoder, crops)

        monkeypatch.setattr(Encoder, "_encode", counting)

    def since(self):
        count, self.pictures = self.pictures, 0
        return count


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


def test_the_next_run_reads_what_this_one_encoded(model, tmp_path, counted):
    settings = settings_of(cache_latents_to_disk=True)
    dataset = with_mask(dataset_of(tmp_path, settings, flip=True), 0, left=20)

    def rows(**changes):
        kept = prepare_latents(model, dataset, settings_of(cache_latents_to_disk=True, **changes))
        return [kept.rows(shots_of(dataset, flipped=flipped)) for flipped in (False, True)]

    first = rows()
    assert counted.since() == 6
    assert len(list((tmp_path / latent_files.FOLDER).glob("*.safetensors"))) == 6
    again, other = rows(), rows(seed=9)
    assert counted.since() == 0
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.latents, b.latents) and torch.equal(a.masks, b.masks)
        assert not torch.equal(a.latents, c.latents)


def test_what_changed_is_encoded_again_and_nothing_else(model, tmp_path, counted):
    settings = settings_of(cache_latents_to_disk=True)
    dataset = dataset_of(tmp_path, settings)

    def encoded(dataset=dataset, model=model, **changes):
        prepare_latents(model, dataset, settings_of(cache_latents_to_disk=True, **changes))
        return counted.since()

    assert encoded() == 3
    path = dataset.concepts[0].pictures[1].path
    before = path.stat()
    picture = Image.open(path).convert("RGB")
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert encoded() == 1  # a changed picture, whatever its date
    shutil.copy(path, tmp_path / "copy.png")
    renamed = Picture(tmp_path / "copy.png", "", 64, 64)
    concept = dataset.concepts[0]
    assert encoded(replace(dataset, concepts=(replace(concept, pictures=(renamed,)),))) == 0
    assert encoded(replace(dataset, concepts=(replace(concept, flip=True),))) == 3  # only the mirror images
    masked = with_mask(dataset, 2, left=8)
    assert encoded(masked) == 1
    assert encoded(with_mask(dataset, 2, left=16)) == 1  # a changed mask
    smaller = replace(concept, frame=replace(concept.frame, width=32, height=32))
    assert encoded(replace(dataset, concepts=(smaller,))) == 3
    other = load_model(support.checkpoint(tmp_path / "other.safetensors", seed=1))
    assert encoded(model=other) == 3
    assert encoded() == 0


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped bit", "gone"])
def test_a_damaged_file_is_made_again(model, tmp_path, counted, damage):
    settings = settings_of(cache_latents_to_disk=True)
    dataset = dataset_of(tmp_path, settings)
    first = prepare_latents(model, dataset, settings).rows(shots_of(dataset)).latents
    file = next((tmp_path / latent_files.FOLDER).iterdir())
    data = bytearray(file.read_bytes())
    data[-5] ^= 64
    file.unlink()
    if damage != "gone":
        file.write_bytes({"empty": b"", "cut": bytes(data[:-100]), "flipped bit": bytes(data)}[damage])
    counted.since()
    warnings = []
    again = prepare_latents(model, dataset, settings, warn=warnings.append).rows(shots_of(dataset)).latents
    assert counted.since() == 1 and not warnings
    assert torch.equal(first, again)
    prepare_latents(model, dataset, settings)
    assert counted.since() == 0


def test_a_folder_that_cant_be_written_is_said_once(model, tmp_path):
    settings = settings_of(cache_latents_to_disk=True)
    dataset = dataset_of(tmp_path, settings)
    (tmp_path / latent_files.FOLDER).write_text("in the way")
    warnings = []
    kept = prepare_latents(model, dataset, settings, warn=warnings.append)
    assert len(warnings) == 1 and "memory only" in warnings[0]
    assert len(kept.rows(shots_of(dataset)).latents) == 3


def test_stopping_leaves_what_is_done_on_disk(model, tmp_path, counted):
    settings = settings_of(cache_latents_to_disk=True)
    dataset = dataset_of(tmp_path, settings)
    done = []
    with pytest.raises(latents.Stopped):
        prepare_latents(model, dataset, settings, progress=lambda *now: done.append(now), stop=lambda: len(done) == 2)
    assert counted.since() == 2
    prepare_latents(model, dataset, settings)
    assert counted.since() == 1
    assert not [path for path in (tmp_path / latent_files.FOLDER).iterdir() if path.suffix == ".tmp"]


def test_stopping_while_all_is_read_from_disk(model, tmp_path):
    settings = settings_of(cache_latents_to_disk=True)
    dataset = dataset_of(tmp_path, settings, ((64, 64),) * 20)
    prepare_latents(model, dataset, settings)
    done = []
    with pytest.raises(latents.Stopped):
        prepare_latents(model, dataset, settings, progress=lambda *now: done.append(now), stop=lambda: bool(done))
    assert len(done) < 20


# Trouble


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_broken_pictures_are_left_out_and_named(model, tmp_path):
    settings = settings_of()
    dataset = dataset_of(tmp_path, settings)
    cut(tmp_path / "1.png")
    warnings = []
    kept = prepare_latents(model, dataset, settings, warn=warnings.append)
    assert len(warnings) == 1 and "1.png" in warnings[0] and "0.png" not in warnings[0]
    assert [p.path.name for p in kept.dataset.concepts[0].pictures] == ["0.png", "2.png"]
    (window,) = TrainingData(kept.dataset, kept, settings).epoch(1)
    assert len(window[0].latents) == 2
    for name in ("0.png", "2.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"no picture is left.*1\.png"):
        prepare_latents(model, dataset, settings)


def test_another_regularisation_picture_takes_the_place_of_a_broken_one(model, tmp_path):
    settings = settings_of()
    dataset = dataset_of(tmp_path, settings, ((64, 64),) * 2)
    reg = dataset_of(tmp_path / "reg", settings, ((64, 64),) * 4, is_reg=True)
    cut(tmp_path / "reg" / "0.png")
    warnings, told = [], []
    both = replace(dataset, concepts=dataset.concepts + reg.concepts)
    kept = prepare_latents(model, both, settings, progress=lambda *now: told.append(now), warn=warnings.append)
    used = [use.picture.path.name for use in kept.dataset.uses() if use.concept.is_reg]
    assert used == ["1.png", "2.png"] and told[-1] == (5, 5) and len(warnings) == 1
    assert sum(len(b.weights) for window in TrainingData(kept.dataset, kept, settings).epoch(1) for b in window) == 4


class Unstable:
    """A VAE that overflows on bright pictures: in half precision, or always."""

    def __init__(self, model, monkeypatch, always=False):
        encode = type(model.vae).encode

        def overflowing(vae, x):
            result = encode(vae, x)
            if x.mean() > 0.5 and (always or vae.dtype is not torch.float32):
                result.latent_dist.mean[:] = float("nan")
            return result

        monkeypatch.setattr(type(model.vae), "encode", overflowing)


@pytest.fixture
def bright(tmp_path):
    dataset = dataset_of(tmp_path, settings_of())
    Image.new("RGB", (64, 64), "white").save(tmp_path / "1.png")
    return dataset


def test_a_picture_that_overflows_in_half_precision_is_encoded_in_full(tmp_path, bright, monkeypatch):
    narrow = support.checkpoint(tmp_path / "narrow.safetensors")
    half, full = load_model(narrow, torch.bfloat16), load_model(narrow)
    Unstable(half, monkeypatch)
    warnings = []
    kept = prepare_latents(half, bright, settings_of(), warn=warnings.append).rows(shots_of(bright)).latents
    exact = prepare_latents(full, bright, settings_of()).rows(shots_of(bright)).latents
    assert half.vae.dtype is torch.bfloat16
    assert len(warnings) == 1 and "1.png" in warnings[0]
    assert kept.dtype is torch.float32
    assert (kept - exact).abs().amax(dim=(1, 2, 3))[1] < (kept - exact).abs().amax(dim=(1, 2, 3))[0]
    torch.testing.assert_close(kept, exact, rtol=0.1, atol=0.1)
    warnings.clear()
    prepare_latents(half, bright, settings_of(no_half_vae=True), warn=warnings.append)
    assert half.vae.dtype is torch.float32 and not warnings


def test_a_picture_without_finite_latents_is_named(model, bright, monkeypatch):
    Unstable(model, monkeypatch, always=True)
    with pytest.raises(UserError, match=r"1\.png.*finite"):
        prepare_latents(model, bright, settings_of())


def test_without_memory_fewer_are_encoded_at_once_then_tiles(model, tmp_path, monkeypatch):
    sizes, encode = [], Encoder._encode

    def short_of_memory(encoder, crops):
        sizes.append(len(crops))
        if len(crops) > 1 or not (encoder.vae.use_tiling or limit):
            raise torch.cuda.OutOfMemoryError("no memory")
        return encode(encoder, crops)

    monkeypatch.setattr(Encoder, "_encode", short_of_memory)
    monkeypatch.setattr(model.vae, "use_tiling", False)
    settings = settings_of()
    dataset = dataset_of(tmp_path, settings)
    crops = [latents._crop(shot.view) for shot in shots_of(dataset)]
    paths = [shot.view.path for shot in shots_of(dataset)]
    warnings = []
    encoder = Encoder(model, settings, warnings.append)
    encoder.at_once, limit = 4, 1
    assert len(encoder(crops, paths)) == 3 and sizes == [3, 2, 1, 1, 1] and not warnings
    limit = 0
    assert len(encoder(crops, paths)) == 3 and len(warnings) == 1 and "tiles" in warnings[0]


# Fresh


@pytest.mark.parametrize("changes", [{"cache_latents": False}, {}])
def test_fresh_latents_differ_from_use_to_use_and_not_from_run_to_run(model, tmp_path, changes):
    settings = settings_of(**changes)
    dataset = dataset_of(tmp_path, settings, ((96, 64),) * 3, random_crop=not changes)

    def rows(moment, following=()):
        fresh = prepare_latents(model, dataset, settings)
        assert isinstance(fresh, FreshLatents) and fresh.needs_vae
        fresh.rows(shots_of(dataset, moment=(9, 9)), shots_of(dataset, **moment))
        return fresh.rows(shots_of(dataset, **moment)).latents

    fields = {"random_crop": not changes, "moment": (1, 0)}
    first = rows(fields)
    assert torch.equal(first, rows(fields))
    assert not torch.equal(first, rows({**fields, "moment": (2, 0)}))
    assert not torch.equal(first, rows({**fields, "flipped": True}))


def test_random_crops_lie_at_different_places(model, tmp_path):
    settings = settings_of()
    dataset = dataset_of(tmp_path, settings, ((128, 64),), random_crop=True)
    fresh = prepare_latents(model, dataset, settings)
    lefts = {fresh._read(shots_of(dataset, random_crop=True, moment=(1, n))[0]).left for n in range(20)}
    assert len(lefts) > 5 and all(0 <= left <= 64 for left in lefts)
    assert fresh._read(shots_of(dataset)[0]).left == 32


def test_what_breaks_during_a_run_weighs_nothing(model, tmp_path):
    settings = settings_of(cache_latents=False)
    dataset = dataset_of(tmp_path, settings)
    warnings = []
    data = TrainingData(dataset, prepare_latents(model, dataset, settings, warn=warnings.append), settings)
    (tmp_path / "2.png").unlink()
    for number in (1, 2):
        ((batch,),) = data.epoch(number)
        assert sorted(batch.weights.tolist()) == [0, 1, 1]
        assert batch.latents.isfinite().all()
        assert dict(zip(batch.captions, batch.weights.tolist(), strict=True))["number 2"] == 0
    assert len(warnings) == 1 and "2.png" in warnings[0]
