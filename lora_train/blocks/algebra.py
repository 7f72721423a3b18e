"""Exact sums of low-rank matrices and their shortest forms, without ever building the matrices.

ΔW = Σᵢ kᵢ BᵢAᵢ, with B "up" [m, r] and A "down" [r, n]. All in float64: the bake must be exact to 1e-6, and differences
of nearly equal LoRAs cancel. QR and the SVD of the r×r core: Halko, Martinsson, Tropp (2011), section 5; the error of a
truncation: Eckart, Young (1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """The matrix B @ A; float64."""

    B: Tensor  # up, [m, r]
    A: Tensor  # down, [r, n]

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])


class Spectrum(NamedTuple):
    """U diag(σ) Vᵀ with orthonormal U [m, q] and V [n, q], σ descending."""

    U: Tensor
    sigma: Tensor
    Vt: Tensor


def flatten(up: Tensor, down: Tensor, mid: Tensor | None = None) -> LowRank:
    """Matrices of a linear or convolutional LoRA: up [m, r, 1, 1], down [r, c, kh, kw] -> [r, c·kh·kw].

    mid [r, r', kh, kw] is LyCORIS's Tucker core, ΔW = Σ up[m,r] mid[r,r',kh,kw] down[r',c]; it is folded into down.
    """
    if mid is not None:
        down = torch.einsum("rshw,sc->rchw", mid.double(), down.double().flatten(1))
    return LowRank(up.double().flatten(1), down.double().flatten(1))


def weighted_sum(terms: Sequence[tuple[float, LowRank]]) -> LowRank:
    """Σ k BA, exactly: B = [… sgn(k)√|k| B …], A = [… √|k| A …]; the rank is the sum of ranks.

    The sign goes to B alone: on both it would vanish.
    """
    B = [_sign(k) * abs(k) ** 0.5 * x.B for k, x in terms]
    A = [abs(k) ** 0.5 * x.A for k, x in terms]
    return LowRank(torch.cat(B, dim=1), torch.cat(A, dim=0))


def _sign(k: float) -> float:
    return -1.0 if k < 0 else 1.0


def difference(x: LowRank, y: LowRank) -> LowRank:
    return LowRank(torch.cat([x.B, y.B], dim=1), torch.cat([x.A, -y.A], dim=0))


def norm(x: LowRank) -> float:
    """‖BA‖_F = ‖R_B R_Aᵀ‖_F, where B = Q_B R_B and Aᵀ = Q_A R_A."""
    R_B = torch.linalg.qr(x.B, mode="r").R
    R_A = torch.linalg.qr(x.A.T, mode="r").R
    return float(torch.linalg.matrix_norm(R_B @ R_A.T))


def spectrum(x: LowRank) -> Spectrum:
    """Singular values and vectors of BA from B = Q_B R_B, Aᵀ = Q_A R_A and R_B R_Aᵀ = U σ Vᵀ."""
    Q_B, R_B = torch.linalg.qr(x.B)
    Q_A, R_A = torch.linalg.qr(x.A.T)
    U, sigma, Vt = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    return Spectrum(Q_B @ U, sigma, Vt @ Q_A.T)


def truncate(s: Spectrum, r: int) -> LowRank:
    """The nearest matrix of rank r, √σ on both sides, strongest first."""
    root = s.sigma[:r].sqrt()
    return LowRank(s.U[:, :r] * root, root[:, None] * s.Vt[:r])


def tail_errors(sigma: Tensor) -> Tensor:
    """Relative error of keeping r = 0 … q singular values: sqrt(Σ_{>r} σ² / Σ σ²); [q + 1]."""
    tails = torch.cat([sigma.square().flip(0).cumsum(0).flip(0), sigma.new_zeros(1)])
    return (tails / tails[0].clamp_min(torch.finfo(tails.dtype).tiny)).sqrt()


def rank_for(sigma: Tensor, target: float) -> int:
    """The smallest rank, at least 1, whose truncation errs by no more than `target`."""
    return max(1, int((tail_errors(sigma) > target).sum()))


def numerical_rank(sigma: Tensor) -> int:
    """How many singular values stand above what rounding in float64 leaves, at least 1."""
    floor = sigma[0] * len(sigma) * torch.finfo(sigma.dtype).eps
    return max(1, int((sigma > floor).sum()))
