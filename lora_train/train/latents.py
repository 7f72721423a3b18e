"""Pictures to latents: all once before the first step, or each anew at every use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..dataset import images
from ..dataset.buckets import Fit, fit, sdxl_sizes
from ..dataset.images import Crop
from ..dataset.pictures import Concept, Dataset, Picture
from ..errors import UserError
from ..model.checkpoint import Family
from ..model.load import StableDiffusion
from ..settings import TrainSettings
from . import latent_files
from .allocator import keep_freed_memory
from .latent_files import Posterior
from .noise import generator

_THREADS = min(4, os.cpu_count() or 1)
_AHEAD = 8  # pictures that are read before they are asked for
_NAMED = 20  # names in one message
_TILE = 512  # pixels, where a picture as a whole doesn't fit into memory

Say = Callable[[str], None]
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class View:
    """A picture as its folder trains it. alpha: whether its transparency is a mask."""

    path: Path
    fit: Fit
    alpha: bool = False
    mask: Path | None = None


@dataclass(frozen=True)
class Shot:
    """One use of a view. moment: what the draws of this use depend on, such as (epoch, position)."""

    view: View
    flipped: bool = False
    random_crop: bool = False
    moment: tuple[int, ...] = ()


@dataclass
class Rows:
    """latents [B, 4, h, w]; masks [B, 1, h, w] or None; sizes [B, 6] for SDXL; sound [B]: 0 where nothing was read."""

    latents: Tensor
    masks: Tensor | None
    sizes: Tensor | None
    sound: Tensor


class Latents(Protocol):
    """Where batches get their latents from. dataset: what is left of it without pictures that couldn't be read."""

    dataset: Dataset
    needs_vae: bool

    def rows(self, shots: Sequence[Shot], following: Sequence[Shot] = ()) -> Rows:
        """Latents of one size; `following` are the ones that will be asked for next."""
        ...


class Stopped(Exception):
    """Told to stop while pictures were encoded."""


def view_of(concept: Concept, picture: Picture) -> View:
    """How a folder trains a picture. Raises UserError where it fits into no bucket."""
    fitted = fit((picture.width, picture.height), concept.frame)
    return View(picture.path, fitted, concept.alpha_mask, picture.mask)


def prepare_latents(
    model: StableDiffusion,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    warn: Say = lambda text: None,
) -> Latents:
    """Encode every picture of `dataset` now, or get ready to encode them at each use, as the settings say.

    progress(done, total) counts pictures. Raises Stopped, and UserError where no picture is left.
    """
    if model.vae.device.type == "cpu":
        keep_freed_memory()
    if not settings.cache_latents or any(concept.random_crop for concept in dataset.concepts):
        return FreshLatents(model, dataset, settings, warn)
    return cache_latents(model, dataset, settings, progress=progress, stop=stop, warn=warn)


# The VAE


class Encoder:
    """The VAE's encoder: pixels to mean and standard deviation.

    On the CPU pictures are encoded one by one, which is faster there, and with channels last, which is faster too.
    """

    def __init__(self, model: StableDiffusion, settings: TrainSettings, warn: Say) -> None:
        self.vae, self.warn = model.vae, warn
        self.dtype = torch.float32 if settings.no_half_vae else self.vae.dtype
        self.device = self.vae.device
        nn.Module.to(self.vae, memory_format=torch.channels_last)
        self._cast(self.dtype)
        self.at_once = 1 if self.device.type == "cpu" else settings.vae_batch_size
        self._warned = False

    def __call__(self, crops: Sequence[Crop], paths: Sequence[Path]) -> list[Posterior]:
        """Posteriors of pictures of one size, with their masks. Raises UserError where one has no finite latents."""
        found: list[Posterior] = []
        while len(found) < len(crops):
            is_full = False
            try:
                found += self._encode(crops[len(found) : len(found) + self.at_once])
            except torch.cuda.OutOfMemoryError:
                if self.at_once == 1 and self.vae.use_tiling:
                    raise
                is_full = True  # dealt with below, where the failed attempt's tensors are gone
            if is_full:
                self._use_less_memory()
        return [p if _finite(p) else self._again(c, path) for p, c, path in zip(found, crops, paths, strict=True)]

    @torch.no_grad()
    def _encode(self, crops: Sequence[Crop]) -> list[Posterior]:
        pixels = torch.from_numpy(np.stack([crop.pixels for crop in crops])).to(self.device)
        x = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(self.vae.dtype)  # so its channels are last
        posterior = self.vae.encode(x).latent_dist
        means, stds = posterior.mean.float().cpu(), posterior.std.float().cpu()
        return [
            Posterior(mean.contiguous().clone(), std.contiguous().clone(), _at_latent_size(crop.mask))
            for mean, std, crop in zip(means, stds, crops, strict=True)
        ]

    def _again(self, crop: Crop, path: Path) -> Posterior:
        """Once more in full precision."""
        if self.vae.dtype is not torch.float32:
            if not self._warned:
                self.warn(
                    f"{path.name}: the VAE gives no finite latents in half precision, so full precision is used for "
                    "such pictures. no_half_vae saves the first attempt"
                )
            self._warned = True
            self._cast(torch.float32)
            posterior = self._encode([crop])[0]
            self._cast(self.dtype)
            if _finite(posterior):
                return posterior
        raise UserError("the VAE gives no finite latents for it", where=path, remedy="Choose another checkpoint or vae")

    def _cast(self, dtype: torch.dtype) -> None:
        nn.Module.to(self.vae, dtype)  # diffusers' own `to` warns of what is meant here

    def _use_less_memory(self) -> None:
        """Fewer pictures at once; at last, one in overlapping tiles."""
        if self.at_once > 1:
            self.at_once //= 2
        else:
            self.warn(f"pictures larger than {_TILE} pixels are encoded in tiles: the GPU's memory isn't enough")
            self.vae.enable_tiling()
            self.vae.tile_sample_min_size, self.vae.tile_latent_min_size = _TILE, _TILE // 8
        torch.cuda.empty_cache()


def _finite(posterior: Posterior) -> bool:
    return bool((posterior.mean + posterior.std).isfinite().all())


# All pictures once


class CachedLatents:
    """One sample of the VAE's posterior for each picture, kept for the whole run as in sd-scripts; of mirrored pictures
    another one. It is drawn from the seed and the picture's place in the dataset.
    """

    needs_vae = False

    def __init__(self, dataset: Dataset, seed: int, with_sizes: bool) -> None:
        self.dataset, self._seed, self._with_sizes = dataset, seed, with_sizes
        self._places: dict[View, int] = {}
        self._kept: dict[tuple[View, bool], tuple[Tensor, Tensor | None]] = {}

    def rows(self, shots: Sequence[Shot], following: Sequence[Shot] = ()) -> Rows:
        """The kept samples."""
        kept = [self._kept[shot.view, shot.flipped] for shot in shots]
        return _rows(shots, [latents for latents, _ in kept], [mask for _, mask in kept], self._with_sizes)

    def missing(self) -> dict[View, bool]:
        """What the dataset uses and isn't kept yet: views, and whether their mirror images are used too."""
        flips: dict[View, bool] = {}
        for use in self.dataset.uses():
            view = view_of(use.concept, use.picture)
            flips[view] = flips.get(view, False) or use.concept.flip
            self._places.setdefault(view, len(self._places))
        return {view: flip for view, flip in flips.items() if (view, flip) not in self._kept}

    def keep(self, view: View, posteriors: Sequence[Posterior]) -> None:
        """Draw and keep the samples of a view and, where there is a second posterior, of its mirror image."""
        for mirrored, posterior in enumerate(posteriors):
            chance = generator(self._seed, self._places[view], *[1] * mirrored)
            self._kept[view, bool(mirrored)] = posterior.sample(chance), posterior.mask


@dataclass
class _Seen:
    """A view and its mirror image, as far as they are known: posteriors from the disk, else the crop to encode."""

    view: View
    files: list[Path]
    posteriors: list[Posterior | None]
    crop: Crop | None = None


def cache_latents(
    model: StableDiffusion,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    warn: Say = lambda text: None,
) -> CachedLatents:
    """Encode every picture once: `prepare_latents` for settings that cache."""
    encoder = Encoder(model, settings, warn)
    vae = latent_files.identity(model.vae) if settings.cache_latents_to_disk else None
    cached = CachedLatents(dataset, settings.seed, model.family is Family.SDXL)
    writer = latent_files.Writer(warn)
    broken: dict[Path, str] = {}
    done = 0
    try:
        while missing := cached.missing():  # again where regularisation pictures take the place of broken ones
            total = done + len(missing)
            by_size = sorted(missing.items(), key=lambda item: item[0].fit.bucket)
            for group in _groups(_ahead(lambda item: _look(*item, vae), by_size), encoder.at_once):
                if stop():
                    raise Stopped
                _encode_all([one for one in group if isinstance(one, _Seen) and one.crop], encoder, writer)
                for one in group:
                    if isinstance(one, _Seen):
                        cached.keep(one.view, [posterior for posterior in one.posteriors if posterior])
                    else:
                        broken[Path(one.where or "")] = one.what
                    done += 1
                    progress(done, total)
            cached.dataset = _without(dataset, broken)
    finally:
        writer.close()
    if broken:
        warn(_left_out(broken))
    return cached


def _look(view: View, flip: bool, vae: str | None) -> _Seen | UserError:
    """What the disk knows of a view, else its pixels. vae: its identity, where encoded pictures are kept on disk."""
    try:
        files = _files(view, flip, vae) if vae else []
        posteriors = [latent_files.read(file) for file in files] or [None] * (1 + flip)
        seen = _Seen(view, files, posteriors)
        if None in posteriors:
            seen.crop = _crop(view)
        return seen
    except OSError as error:
        return UserError(f"it can't be read ({error.strerror})", where=view.path)
    except UserError as error:
        return UserError(error.what, where=view.path)


def _files(view: View, flip: bool, vae: str) -> list[Path]:
    """Where the posteriors of a view and its mirror image lie."""
    mask = latent_files.file_digest(view.mask) if view.mask else view.alpha
    facts = (latent_files.file_digest(view.path), view.fit.bucket, view.fit.resized, mask, vae)
    return [latent_files.entry(view.path, *facts, mirrored) for mirrored in ((False, True) if flip else (False,))]


def _encode_all(group: Sequence[_Seen], encoder: Encoder, writer: latent_files.Writer) -> None:
    """Fill in the posteriors that are missing, of pictures of one size."""
    for mirrored in (False, True):
        missing = [seen for seen in group if seen.posteriors[mirrored : mirrored + 1] == [None]]
        crops = [seen.crop.flipped() if mirrored else seen.crop for seen in missing if seen.crop]
        for seen, posterior in zip(missing, encoder(crops, [seen.view.path for seen in missing]), strict=True):
            seen.posteriors[mirrored] = posterior
            if seen.files:
                writer.put(seen.files[mirrored], posterior)


def _ahead(look: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """look(item) for each item in turn; threads are a few of them ahead, since decoders leave Python's lock."""
    pool = ThreadPoolExecutor(_THREADS)
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(look, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _groups(found: Iterable[_Seen | UserError], size: int) -> Iterator[list[_Seen | UserError]]:
    """Short lists, each with at most `size` pictures to encode, all of one size."""
    group: list[_Seen | UserError] = []
    to_encode = 0
    last = None
    for one in found:
        bucket = one.view.fit.bucket if isinstance(one, _Seen) and one.crop else None
        if (bucket and to_encode and (to_encode == size or bucket != last)) or len(group) >= max(size, _AHEAD):
            yield group
            group, to_encode = [], 0
        if bucket:
            last, to_encode = bucket, to_encode + 1
        group.append(one)
    if group:
        yield group


def _without(dataset: Dataset, broken: dict[Path, str]) -> Dataset:
    """The dataset without the pictures that couldn't be read; raises UserError where none is left to train on."""
    if not broken:
        return dataset
    concepts = [replace(c, pictures=tuple(p for p in c.pictures if p.path not in broken)) for c in dataset.concepts]
    concepts = [concept for concept in concepts if concept.pictures]
    if all(concept.is_reg for concept in concepts):
        what = f"no picture is left to train on. {_left_out(broken)}"
        raise UserError(what, where=dataset.root, remedy="Look at the pictures")
    return replace(dataset, concepts=tuple(concepts))


def _left_out(broken: dict[Path, str]) -> str:
    names = [f"{path.name} ({what})" for path, what in list(broken.items())[:_NAMED]]
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f"left out, since they can't be read: {', '.join(names)}{more}"


# Each picture at every use


class FreshLatents:
    """Every use of a picture is cut out anew, and drawn anew from the posterior, by the seed and the use's moment."""

    needs_vae = True

    def __init__(self, model: StableDiffusion, dataset: Dataset, settings: TrainSettings, warn: Say) -> None:
        self.dataset, self._seed, self._warn = dataset, settings.seed, warn
        self._encoder = Encoder(model, settings, warn)
        self._with_sizes = model.family is Family.SDXL
        self._pool = ThreadPoolExecutor(_THREADS)
        self._reading: dict[Shot, Future[Crop | UserError]] = {}
        self._lost: set[Path] = set()

    def rows(self, shots: Sequence[Shot], following: Sequence[Shot] = ()) -> Rows:
        """Encode one batch while threads read the pictures of the next; what can't be read is 0 and weighs nothing."""
        reading = {shot: self._reading.get(shot) or self._pool.submit(self._read, shot) for shot in shots}
        self._reading = {shot: self._pool.submit(self._read, shot) for shot in following}
        found = {shot: future.result() for shot, future in reading.items()}
        crops = {shot: crop for shot, crop in found.items() if isinstance(crop, Crop)}
        posteriors = dict(zip(crops, self._encoder(list(crops.values()), [s.view.path for s in crops]), strict=True))
        width, height = shots[0].view.fit.bucket
        latents, masks = [], []
        for shot in shots:
            if posterior := posteriors.get(shot):
                latents.append(posterior.sample(generator(self._seed, *shot.moment, 1)))
                masks.append(posterior.mask)
            else:
                self._lose(shot.view.path, found[shot])
                latents.append(torch.zeros(4, height // 8, width // 8))
                masks.append(None)
        rows = _rows(shots, latents, masks, self._with_sizes)
        rows.sound = torch.tensor([float(shot in posteriors) for shot in shots])
        return rows

    def _read(self, shot: Shot) -> Crop | UserError:
        try:
            crop = _crop(shot.view, Random(f"{self._seed} {shot.moment}") if shot.random_crop else None)
            return crop.flipped() if shot.flipped else crop
        except UserError as error:
            return error

    def _lose(self, path: Path, error: Crop | UserError) -> None:
        assert isinstance(error, UserError)
        if path not in self._lost:
            self._warn(f"{path.name} is left out: {error.what}")
        self._lost.add(path)


# One picture


def _crop(view: View, chance: Random | None = None) -> Crop:
    return images.crop(view.path, view.fit, alpha=view.alpha, mask=view.mask, random=chance)


def _at_latent_size(mask: NDArray[np.uint8] | None) -> Tensor | None:
    """uint8 [h, w] as float32 [1, h/8, w/8] in 0 … 1, by areas."""
    if mask is None:
        return None
    height, width = mask.shape
    whole = torch.from_numpy(mask).float()[None, None] / 255
    return interpolate(whole, size=(height // 8, width // 8), mode="area")[0]


def _rows(shots: Sequence[Shot], latents: Sequence[Tensor], masks: Sequence[Tensor | None], with_sizes: bool) -> Rows:
    together = None
    if any(mask is not None for mask in masks):
        whole = torch.ones(1, *latents[0].shape[1:])
        together = torch.stack([whole if mask is None else mask for mask in masks])
    sizes = None
    if with_sizes:
        sizes = torch.tensor([sdxl_sizes(s.view.fit.size, s.view.fit.bucket, s.flipped) for s in shots])
    return Rows(torch.stack(list(latents)), together, sizes, torch.ones(len(shots)))
