"""What to change, in plain words, each with the numbers that say so. All of it is an estimate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..settings import TrainSettings
from .validation import RISE, Band, candidate_band

_FEWEST = 3
_GAIN = 0.01  # a loss that has fallen by less than this share has hardly moved


def advise(
    curves: Mapping[str, Sequence[float]],
    settings: TrainSettings,
    *,
    every: int = 1,
    pictures: int = 0,
    repeats: float = 0,
) -> list[str]:
    """Lines on over- and underfitting from the losses measured every `every` epochs, {"train": […], "held_out": […]}.

    pictures and repeats (their mean): of the training set. Empty with fewer than three measures.
    """
    train, held_out = (list(curves.get(name, ())) for name in ("train", "held_out"))
    band = candidate_band(held_out, every)
    if band:
        return _by_held_out(train, held_out, band, every, settings, pictures, repeats)
    if len(train) >= _FEWEST and all(map(math.isfinite, train)):
        return _by_train(train, every, settings)
    return []


def after_blow_up(settings: TrainSettings, no_number: bool = False) -> str:
    """What to try when a training left all bounds. no_number: it showed in black pictures or in NaN."""
    tries = [_slower(settings)]
    if settings.mixed_precision == "fp16":
        tries.append("choose mixed_precision bf16 instead of fp16, whose numbers end at 65,504")
        if no_number and not settings.no_half_vae:
            tries.append("switch no_half_vae on, as some VAEs give black pictures in half precision")
    half = settings.network_dim / 2
    if settings.network_alpha > half:
        tries.append(f"lower network_alpha from {settings.network_alpha:g} to half of network_dim, {half:g}, or less")
    if not settings.max_grad_norm:
        tries.append("set max_grad_norm 1, so that no single gradient counts too much")
    return f"Try one after the other: {'; '.join(tries)}"


def _slower(s: TrainSettings) -> str:
    if _finds_its_rate(s):
        return f"choose AdamW with learning_rate 1e-4 instead of {s.optimizer_type}, which finds its rate itself"
    rate = max(s.unet_rate, s.text_encoder_rate)
    return f"lower the learning rate from {rate:g} to {rate / 3:.2g}"


def _by_held_out(
    train: list[float], held_out: list[float], band: Band, every: int, s: TrainSettings, pictures: int, repeats: float
) -> list[str]:
    place = band.lowest // every - 1
    low, last, epochs = held_out[place], held_out[-1], len(held_out) * every
    lines = [
        f"Estimate: the candidates are epochs {band.first} to {band.last}. The loss on the held-out pictures was "
        f"lowest after epoch {band.lowest}, {low:.4f}. Choose among them by eye, in the grid"
    ]
    if last > low * (1 + RISE):
        lines.append(
            f"Estimate: overfitting after epoch {band.last}. The held-out loss rose from {low:.4f} to {last:.4f} "
            f"({_percent(last / low - 1)}){_meanwhile(train, place)}: the training pictures are learned by heart. "
            f"For another run: {_or(_less(s, band, pictures, repeats))}"
        )
    elif _hardly_moved(held_out) and _hardly_moved(train or held_out):
        lines.append(_little_learned(train or held_out, s))
    elif place == len(held_out) - 1 and held_out[-2] - last > 0.05 * (held_out[0] - low):
        lines.append(
            f"Estimate: underfitting. The held-out loss still fell in the last epochs, from {held_out[-2]:.4f} to "
            f"{last:.4f} of {held_out[0]:.4f} after epoch {every}: there is more to learn. "
            f"For another run: {_or(_more(s, epochs, pictures, repeats))}"
        )
    return lines


def _by_train(train: list[float], every: int, s: TrainSettings) -> list[str]:
    if _hardly_moved(train):
        return [_little_learned(train, s)]
    return [
        f"Estimate: the loss on the training pictures fell from {train[0]:.4f} after epoch {every} to {train[-1]:.4f} "
        f"after epoch {len(train) * every}. Whether they are learned by heart shows on held-out pictures alone: "
        "give validation_split 0.1"
    ]


def _less(s: TrainSettings, band: Band, pictures: int, repeats: float) -> Iterable[str]:
    """Against overfitting."""
    yield f"fewer epochs (max_train_epochs {band.last})"
    if repeats > 1:
        yield f"fewer repeats (now {repeats:g} of each picture)"
    yield f"more pictures that differ (now {pictures})" if pictures else "more pictures that differ"
    if s.network_dim > 4:
        yield f"a smaller network_dim ({s.network_dim // 2} in place of {s.network_dim})"
    yield f"a smaller network_alpha ({s.network_alpha / 2:g} in place of {s.network_alpha:g})"
    yield f"a larger train_batch_size ({2 * s.train_batch_size} in place of {s.train_batch_size})"


def _more(s: TrainSettings, epochs: int, pictures: int, repeats: float) -> Iterable[str]:
    """Against underfitting."""
    yield f"more epochs (max_train_epochs {math.ceil(1.5 * epochs)} in place of {epochs})"
    if repeats:
        yield f"more repeats (now {repeats:g} of each picture)"
    yield f"more pictures (now {pictures})" if pictures else "more pictures"
    yield f"a larger network_dim ({2 * s.network_dim} in place of {s.network_dim})"
    if s.network_alpha < s.network_dim:
        alpha = min(float(s.network_dim), 2 * s.network_alpha)
        yield f"a larger network_alpha ({alpha:g} in place of {s.network_alpha:g})"
    if s.train_batch_size > 1:
        yield f"a smaller train_batch_size ({s.train_batch_size // 2} in place of {s.train_batch_size})"


def _little_learned(curve: list[float], s: TrainSettings) -> str:
    rate, scale = max(s.unet_rate, s.text_encoder_rate), s.network_alpha / s.network_dim
    higher = "AdamW with a rate of your own" if _finds_its_rate(s) else f"a higher learning rate ({3 * rate:.2g})"
    return (
        f"Estimate: hardly anything was learned. The loss changed by {_percent(curve[-1] / curve[0] - 1)} over the "
        f"run, with a learning rate of {rate:g} and alpha / dim {scale:g}. For another run: {higher} or a larger "
        "network_alpha; the two multiply"
    )


def _finds_its_rate(s: TrainSettings) -> bool:
    return s.optimizer_type.startswith(("DAdapt", "Prodigy"))


def _hardly_moved(curve: Sequence[float]) -> bool:
    return abs(curve[0] - min(curve)) < _GAIN * curve[0]


def _meanwhile(train: list[float], place: int) -> str:
    if place >= len(train) or not train[-1] < train[place]:
        return ""
    return f" while that on the training pictures fell from {train[place]:.4f} to {train[-1]:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _or(choices: Iterable[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
