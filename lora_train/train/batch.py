"""What one micro-batch holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..model.text import TextStates


@dataclass
class Batch:
    """The pictures of one micro-batch that this process has.

    latents [B, 4, h, w]: samples of the VAE, float32, not yet scaled; captions: B texts; weights [B] of the loss;
    masks [B, 1, h, w] in 0 … 1, or None: everything counts; sizes [B, 6]: SDXL's, as `buckets.sdxl_sizes` gives them;
    text: the captions' states where they are kept; index: number of this batch in the run, from which noise is drawn;
    first, of: where these rows begin in the whole batch, and how many pictures it has over all processes (0: B).
    """

    latents: Tensor
    captions: Sequence[str]
    weights: Tensor
    masks: Tensor | None = None
    sizes: Tensor | None = None
    text: TextStates | None = None
    index: int = 0
    first: int = 0
    of: int = 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            latents=moved(self.latents),
            weights=moved(self.weights),
            masks=moved(self.masks),
            sizes=moved(self.sizes),
            text=None if self.text is None else self.text.to(device),
        )
