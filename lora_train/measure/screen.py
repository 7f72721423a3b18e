"""What each number does to the subject in drawn pictures: a screening design, and a curve through what it shows.

In every run all numbers are moved, half of them up and half down (Plackett and Burman 1946), so that each number's
effect is estimated from all pictures of all runs. What the pictures show is fitted by a logistic curve in the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

CENTRE, MOVE = 0.9, 0.3  # CENTRE times what the numbers were: where the subject is not yet sure
REACH = 0.35  # from what the numbers were; farther away the curve has been wrong
_PRIMES = (3, 7, 11, 19, 23, 31, 43, 47, 59, 67, 71, 79, 83)
_STEPS, _RATE = 400, 0.05
_RIDGE, _RIDGE_SEED = 0.5, 0.1


def design(count: int) -> Tensor:
    """[runs, count] of −1 and 1, columns orthogonal; runs: the next size above count (Paley 1933)."""
    q = next((prime for prime in _PRIMES if prime >= count), _PRIMES[-1])
    squares = {x * x % q for x in range(1, q)}
    rows = [[1.0 if (i - j) % q in squares or i == j else -1.0 for j in range(q)] for i in range(q)]
    return torch.tensor([*rows, [-1.0] * q])[:, :count]


@dataclass
class Curve:
    """P(subject) = σ(level + seed + slopes · (numbers − centre)), the mean over the seeds it was fitted on."""

    centre: Tensor
    level: Tensor
    slopes: Tensor
    seeds: Tensor

    def __call__(self, numbers: Tensor) -> Tensor:
        return torch.sigmoid(self.level + self.seeds + self.slopes @ (numbers - self.centre)).mean()


def fit(centre: Tensor, numbers: Tensor, shown: Tensor, expected: Tensor) -> Curve:
    """numbers [runs, count]; shown [runs, seeds] in 0 … 1; expected [count]: slopes as another measure has them, up to
    a common factor, from which the fitted ones depart only as far as the pictures ask for it.
    """
    x, prior = numbers - centre, expected / expected.norm().clamp_min(1e-12)
    level, common = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    apart = torch.zeros(len(centre), requires_grad=True)
    seeds = torch.zeros(shown.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([level, common, apart, seeds], lr=_RATE)
    for _ in range(_STEPS):
        logits = level + seeds + (x @ (common * prior + apart))[:, None]
        loss = binary_cross_entropy_with_logits(logits, shown, reduction="sum")
        loss = loss + _RIDGE * apart.square().sum() + _RIDGE_SEED * seeds.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Curve(centre, level.detach(), (common * prior + apart).detach(), seeds.detach())
