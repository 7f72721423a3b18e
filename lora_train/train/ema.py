"""A running average of the trained weights: it is smoother than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError


class Ema:
    """Exponential moving average of `parameters`, kept in fp32 whatever their own precision.

    s_n = a_n s_(n-1) + (1 - a_n) w_n with a_n = min(decay, (1 + n) / (10 + n)): early averages forget the start fast.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.reset()

    def reset(self) -> None:
        """Begin anew from the weights as they are now."""
        self.updates = 0
        self.shadow = [p.detach().to(torch.float32, copy=True) for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            shadow.lerp_(parameter.detach().float(), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this, the parameters hold the average; afterwards their own values again, bit for bit."""
        own = [p.detach().clone() for p in self.parameters]
        try:
            self._write(self.shadow)
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """What goes on from here; `decay` is a setting and not part of it."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError when the average is of other parameters."""
        if [t.shape for t in state["shadow"]] != [t.shape for t in self.shadow]:
            raise UserError(
                "the running average in the state is of other weights",
                where="ema_decay",
                remedy="Go on with the network that the state was saved from",
            )
        self.updates = state["updates"]
        for own, loaded in zip(self.shadow, state["shadow"], strict=True):
            own.copy_(loaded)
