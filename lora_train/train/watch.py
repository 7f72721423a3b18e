"""Seeing that a training has blown up: losses that are no number or have left all bounds, black previews.

A step's loss hangs on its timestep and may be a hundred times the step's before. Judged is therefore the mean logarithm
of several steps against median and MAD of many, and only where it stays high.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import fmean, median

from PIL import Image, ImageStat

from ..errors import UserError
from ..settings import TrainSettings
from .advice import after_blow_up

_SETTLING, _SKIPS = 20, 8  # fp16's loss scale starts at 65536 and may be halved this often; later skips are rare
_SHORT, _LONG, _FEWEST = 16, 500, 100  # steps that are judged, that they are judged by, fewest to judge by
_STAYS = 8  # steps that the mean must stay too high
_LEARN_EVERY = 10
_DEVIATIONS, _FACTOR = 2.0, 4.0
_NORM_DEVIATIONS, _NORM_FACTOR = 4.0, 100.0
_ABSURD = 10.0  # a model that predicted nothing at all would have a loss of 1
_DARK, _FLAT = 8, 2


class BlowUp(UserError):
    """The training left all bounds. The weights of the step before, and every file saved, are as they were."""

    def __init__(self, what: str, step: int, settings: TrainSettings, no_number: bool = False) -> None:
        super().__init__(
            f"the training blew up: {what}. The files saved before are intact",
            where=f"step {step}",
            remedy=after_blow_up(settings, no_number),
        )


class Watch:
    """Told of every step, in order; some steps late does no harm. `steps`: how many it has been told of.

    Where stop_on_blow_up is off, what would have stopped the run is put into `warnings`, once.
    """

    def __init__(self, settings: TrainSettings, steps: int = 0) -> None:
        self.settings, self.steps = settings, steps
        self.warnings: list[str] = []
        self._loss = _Level(_DEVIATIONS, _FACTOR)
        self._norm = _Level(_NORM_DEVIATIONS, _NORM_FACTOR)
        self._skips = self._skips_in_a_row = 0
        self._absurd = _ABSURD * max(1.0, settings.prior_loss_weight)
        self._have_been_drawn = self._black_before = self._warned = False
        self._pending = ""

    def check(self, loss: float, grad_norm: float, skipped: bool = False) -> None:
        """Raise BlowUp where the run should not go on; called before the update.

        skipped: the loss scaler found the gradient too large and left the update out, so that its norm says nothing.
        """
        self.steps += 1
        if self._pending:
            self._tell(self._pending, no_number=True)
        if not math.isfinite(loss):
            self._tell(f"the loss became {loss}", no_number=True)
            return
        if skipped:
            self._skip()
            return
        self._skips_in_a_row = 0
        if not math.isfinite(grad_norm):
            self._tell(f"the gradient became {grad_norm}", no_number=True)
            return
        if usual := self._loss.leaves(loss):
            self._tell(f"the loss stays near {self._loss.recent:.3g}, where {usual:.3g} was usual")
        elif self._loss.recent > self._absurd:
            self._tell(f"the loss stays near {self._loss.recent:.3g}, where a model that knows nothing has 1")
        if usual := self._norm.leaves(grad_norm):
            self._tell(f"the gradient's norm stays near {self._norm.recent:.3g}, where {usual:.3g} was usual")

    def previews(self, images: Sequence[Image.Image], step: int) -> None:
        """Told of the pictures drawn together; where all are black or of one colour and earlier ones were not, the next
        check raises. Pictures that were black from the first may be the VAE's doing: they are a warning.
        """
        black = bool(images) and all(map(looks_black, images))
        if images and not black:
            self._have_been_drawn = True
        elif black and self._have_been_drawn:
            self._pending = "the previews became black or of one colour"
        elif black and not self._black_before:
            self._black_before = True
            self.warnings.append(
                f"the first previews, after step {step}, are black or of one colour: the VAE may need no_half_vae, or "
                f"the training blew up. {after_blow_up(self.settings, no_number=True)}"
            )

    def _skip(self) -> None:
        self._skips += 1
        self._skips_in_a_row += 1
        if self._skips > _SETTLING and self._skips_in_a_row >= _SKIPS:
            self._tell(f"the gradient was too large for fp16 in {self._skips_in_a_row} steps in a row", no_number=True)

    def _tell(self, what: str, no_number: bool = False) -> None:
        self._pending = ""
        error = BlowUp(what, self.steps, self.settings, no_number)
        if self.settings.stop_on_blow_up:
            raise error
        if not self._warned:
            self._warned = True
            self.warnings.append(str(error))


class _Level:
    """Whether positive numbers whose logarithms scatter stay above their usual level.

    Usual is the lowest median so far of _FEWEST to _LONG steps, so that a slow rise never becomes usual.
    """

    def __init__(self, deviations: float, factor: float) -> None:
        self.deviations, self.least = deviations, math.log(factor)
        self.judged: deque[float] = deque(maxlen=_SHORT)
        self.before: deque[float] = deque(maxlen=_LONG)
        self.middle = self.bound = math.inf
        self.count = self.above = 0
        self.recent = 0.0

    def leaves(self, value: float) -> float:
        """Take one value in; the usual level where the last _STAYS means were all too high, else 0."""
        if len(self.judged) == _SHORT:
            self.before.append(self.judged[0])
        self.judged.append(math.log(max(value, 1e-12)))
        if len(self.judged) < _SHORT:
            return 0.0
        mean = fmean(self.judged)
        self.recent = math.exp(mean)
        self.count += 1
        if len(self.before) >= _FEWEST and self.count % _LEARN_EVERY == 0:
            self._learn()
        self.above = self.above + 1 if mean > self.bound else 0
        return math.exp(self.middle) if self.above >= _STAYS else 0.0

    def _learn(self) -> None:
        """Median and MAD (times 1.4826: a standard deviation) of the steps before those that are judged."""
        middle = median(self.before)
        if middle <= self.middle:
            spread = 1.4826 * median(abs(value - middle) for value in self.before)
            self.middle = middle
            self.bound = middle + max(self.deviations * spread, self.least)


def looks_black(image: Image.Image) -> bool:
    """Whether a picture is black or of one colour: what a model gives whose numbers overflowed."""
    ranges = ImageStat.Stat(image.convert("RGB")).extrema
    return all(high <= _DARK for _, high in ranges) or all(high - low <= _FLAT for low, high in ranges)
