"""Exact sums of low-rank matrices and their shortest forms, without ever building the matrices.

ΔW = Σᵢ kᵢ BᵢAᵢ, with B "up" [m, r] and A "down" [r, n]. QR and the SVD of the r×r core: Halko, Martinsson, Tropp
(2011), section 5; the error of a truncation: Eckart, Young (1936); QR by Cholesky: Fukaya et al. (2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..network.kohya import greatest

_ILL_CONDITIONED = 1e-3  # least against greatest diagonal element of R, below which Cholesky loses too many digits
_CANCELLED = 1e-2  # ‖BA‖² against ‖BᵀB‖ ‖AAᵀ‖, below which a Gram matrix in float32 has too few digits
_ROWS = 1024  # at a time: they stay in the processor's cache, and no large tensor is made
_SAMPLE = 96  # rows at least, of those whose rounding is looked at as a whole


class LowRank(NamedTuple):
    """The matrix B @ A."""

    B: Tensor  # up, [m, r]
    A: Tensor  # down, [r, n]

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])

    def to(self, dtype: torch.dtype) -> LowRank:
        return LowRank(self.B.to(dtype), self.A.to(dtype))

    def dense(self) -> Tensor:
        """[m, n]."""
        return self.B @ self.A


class Spectrum(NamedTuple):
    """U diag(σ) Vᵀ = BA with σ descending; U = B L and Vᵀ = R A are made for the columns that are asked for alone."""

    sigma: Tensor
    B: Tensor
    L: Tensor
    R: Tensor
    A: Tensor

    def U(self, r: int) -> Tensor:
        """The first r left singular vectors, [m, r]."""
        return self.B @ self.L[:, :r]

    def Vt(self, r: int) -> Tensor:
        """The first r right singular vectors, [r, n]."""
        return self.R[:r] @ self.A


def flatten(up: Tensor, down: Tensor, mid: Tensor | None = None) -> LowRank:
    """Matrices of a linear or convolutional LoRA: up [m, r, 1, 1], down [r, c, kh, kw] -> [r, c·kh·kw].

    mid [r, r', kh, kw] is LyCORIS's Tucker core, ΔW = Σ up[m,r] mid[r,r',kh,kw] down[r',c]; it is folded into down, in
    float64.
    """
    if mid is not None:
        up, down = up.double(), torch.einsum("rshw,sc->rchw", mid.double(), down.double().flatten(1))
    return LowRank(up.flatten(1), down.flatten(1))


def hadamard(x: LowRank, y: LowRank) -> LowRank:
    """BₓAₓ ∘ BᵧAᵧ, exactly: the products of all pairs of columns of B and of rows of A. The rank is the product."""
    B = (x.B[:, :, None] * y.B[:, None, :]).flatten(1)
    A = (x.A[:, None, :] * y.A[None, :, :]).flatten(0, 1)
    return LowRank(B, A)


def kronecker(x: LowRank, y: LowRank) -> LowRank:
    """BₓAₓ ⊗ BᵧAᵧ = (Bₓ ⊗ Bᵧ)(Aₓ ⊗ Aᵧ), exactly. The rank is the product."""
    B, A = ((a.contiguous(), b.contiguous()) for a, b in ((x.B, y.B), (x.A, y.A)))
    return LowRank(torch.kron(*B), torch.kron(*A))


def factored(matrix: Tensor) -> LowRank:
    """A whole matrix as a product with the identity on its shorter side."""
    m, n = matrix.shape
    identity = torch.eye(min(m, n), dtype=matrix.dtype)
    return LowRank(matrix, identity) if n <= m else LowRank(identity, matrix)


def weighted_sum(terms: Sequence[tuple[float, LowRank]]) -> LowRank:
    """Σ k BA in float64, exactly: B = [… 2⁻ᵖ k B …], A = [… 2ᵖ A …]; the rank is the sum of ranks.

    p makes the largest values of both factors about equal, so that neither leaves the range of 16 bits. A power of two
    changes no digit: a file that can hold A's numbers rounds B alone. k stays on B: on both its sign would vanish.
    """
    scales = [_scales(k, x) for k, x in terms]
    B = [x.B.double() * up for (_, x), (up, _) in zip(terms, scales, strict=True)]
    A = [x.A.double() * down for (_, x), (_, down) in zip(terms, scales, strict=True)]
    return LowRank(torch.cat(B, dim=1), torch.cat(A, dim=0))


def _scales(k: float, x: LowRank) -> tuple[float, float]:
    p = _balance(k, x.B, x.A)
    return math.ldexp(k, -p), 2.0**p


class Rounded(NamedTuple):
    """A weighted sum as a file holds it. norm: of the sum itself; error: ‖sum − rounded‖, of tall matrices estimated
    from a sample of rows, to about 1 %.
    """

    matrix: LowRank
    norm: float
    error: float


def rounded_sum(terms: Sequence[tuple[float, LowRank]], dtype: torch.dtype) -> Rounded | None:
    """weighted_sum in numbers of 16 bits, in one pass in float32, without the sum itself.

    Norms come from Gram matrices, ‖BA‖² = Σ BᵀB ∘ AAᵀ. None where that has too few digits: terms that cancel, or an A
    that `dtype` rounds too.
    """
    rank = sum(x.rank for _, x in terms)
    (m, _), (_, n) = terms[0][1].B.shape, terms[0][1].A.shape
    scales = [_scales(k, x) for k, x in terms]
    B, A = torch.empty(m, rank, dtype=dtype), torch.empty(rank, n, dtype=dtype)
    gram_A, lost_A = _fill_down(A, [(x.A, down) for (_, x), (_, down) in zip(terms, scales, strict=True)])
    gram_B, lost = _fill_up(B, [(x.B, up) for (_, x), (up, _) in zip(terms, scales, strict=True)], gram_A)
    square = float((gram_B * gram_A).sum())
    rest = lost_A * float(gram_B.trace()) / rank  # subnormal numbers of A, as if they lay in all directions
    enough = square > _CANCELLED * float(gram_B.norm()) * float(gram_A.norm())
    if not (enough and math.isfinite(lost) and (rest <= 1e-4 * lost)):
        return None
    return Rounded(LowRank(B, A), math.sqrt(square), math.sqrt(lost + rest))


Parts = Sequence[tuple[Tensor, float]]


def _fill_down(out: Tensor, parts: Parts) -> tuple[Tensor, float]:
    """Write x · scale of each part, a power of two, one below the other into out [r, n]; (out outᵀ, ‖y − out‖²) with y
    what was to be written.
    """
    rank, n = out.shape
    products = torch.zeros(rank, rank, dtype=torch.float64)
    lost = 0.0
    buffer = torch.empty(rank, min(n, _ROWS))
    for start in range(0, n, _ROWS):
        columns = slice(start, min(start + _ROWS, n))
        y, at = buffer[:, : columns.stop - start], 0
        for x, scale in parts:
            rows = slice(at, at + x.shape[0])
            out[rows, columns] = x[:, columns] * scale
            if x.dtype != out.dtype or scale < 1:  # else no digit is lost
                difference = (x[:, columns].float() * scale).sub_(out[rows, columns])
                lost += float(difference.square_().sum(dtype=torch.float64))
            at += x.shape[0]
        products += gram(y.copy_(out[:, columns]).T)
    return products, lost


def _fill_up(out: Tensor, parts: Parts, gram_A: Tensor) -> tuple[Tensor, float]:
    """Write x · scale of each part side by side into out [m, r]; (yᵀy, ‖(y − out) A‖²) of what is written, y.

    ‖eA‖² of a row e of y − out is about Σ e² ∘ diag AAᵀ, as roundings know nothing of each other; how far that is from
    the truth, e AAᵀ eᵀ, is seen in some of the rows.
    """
    m, rank = out.shape
    products = torch.zeros(rank, rank, dtype=torch.float64)
    inner, diagonal = gram_A.float(), gram_A.diagonal().float()
    about = sampled = truth = 0.0
    buffer = torch.empty(min(m, _ROWS), rank)
    step = max(1, m // _SAMPLE)
    for start in range(0, m, _ROWS):
        rows = slice(start, min(start + _ROWS, m))
        y, at = buffer[: rows.stop - start], 0
        for x, scale in parts:
            y[:, at : at + x.shape[1]].copy_(x[rows]).mul_(scale)
            at += x.shape[1]
        out[rows] = y
        products += gram(y)
        y -= out[rows]
        some = y[::step].clone()
        squares = y.square_() @ diagonal
        about += float(squares.sum(dtype=torch.float64))
        sampled += float(squares[::step].sum(dtype=torch.float64))
        truth += float(((some @ inner) * some).sum(dtype=torch.float64))
    return products, about * truth / sampled if sampled else about


def _balance(k: float, B: Tensor, A: Tensor) -> int:
    """log2 of the factor by which A grows and k B shrinks so that their largest values are about equal, rounded."""
    up, down = abs(k) * greatest(B), greatest(A)
    if not (up and down and 0 < up / down < math.inf):
        return 0
    return max(-60, min(60, round(math.log2(up / down) / 2)))


def gram(x: Tensor) -> Tensor:
    """xᵀx of x [n, r]; of two blocks that are each other's transpose one is calculated."""
    r = x.shape[1]
    width = max(64, -(-r // 4))
    if r <= width:
        return x.T @ x
    result = x.new_empty(r, r)
    for start in range(0, r, width):
        stop = min(start + width, r)
        torch.mm(x[:, start:stop].T, x[:, start:], out=result[start:stop, start:])
        result[stop:, start:stop] = result[start:stop, stop:].T
    return result


def norm(x: LowRank) -> float:
    """‖BA‖_F in float64: from Gram matrices, or where terms cancel as ‖R_B R_Aᵀ‖, B = Q_B R_B and Aᵀ = Q_A R_A."""
    B, A = x.B.double(), x.A.double()
    gram_B, gram_A = gram(B), gram(A.T)
    square = float((gram_B * gram_A).sum())
    if square > _CANCELLED * float(gram_B.norm()) * float(gram_A.norm()):
        return math.sqrt(square)
    R_B, R_A = torch.linalg.qr(B, mode="r").R, torch.linalg.qr(A.T, mode="r").R
    return float(torch.linalg.matrix_norm(R_B @ R_A.T))


def rounding_error(wanted: LowRank, stored: LowRank, gram_A: Tensor) -> float:
    """‖BA − B'A'‖_F where B' and A' are B and A rounded: with b = B' − B and a = A' − A it is ‖bA + B'a‖, free of
    cancellation. gram_A: AAᵀ.
    """
    b, a = stored.B.to(wanted.B.dtype) - wanted.B, stored.A.to(wanted.A.dtype) - wanted.A
    square = (gram(b) * gram_A).sum(dtype=torch.float64)
    if bool(a.any()):
        B = stored.B.to(b.dtype)
        square += (gram(B) * gram(a.T)).sum(dtype=torch.float64)
        square += 2 * ((b.T @ B) * (wanted.A @ a.T)).sum(dtype=torch.float64)
    return math.sqrt(max(0.0, float(square)))


def spectrum(x: LowRank) -> Spectrum:
    """Singular values and vectors of BA in float64, from B = Q_B R_B, Aᵀ = Q_A R_A and R_B R_Aᵀ = U σ Vᵀ."""
    x = x.to(torch.float64)
    B, R_B, left = _qr(x.B)
    At, R_A, right = _qr(x.A.T)
    U, sigma, Vt = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    L = torch.linalg.solve_triangular(left, U, upper=True) if left is not None else U
    R = torch.linalg.solve_triangular(right, Vt.T, upper=True).T if right is not None else Vt
    return Spectrum(sigma, B, L, R, At.T)


def _qr(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """(y, R, S) with x = Q R and Q = y S⁻¹. By Cholesky, where x is far from singular: y = x, S = R. Else y = Q."""
    if x.shape[1] <= x.shape[0]:
        R, info = torch.linalg.cholesky_ex(gram(x.contiguous()), upper=True)
        diagonal = R.diagonal()
        if not info and diagonal.min() > _ILL_CONDITIONED * diagonal.max():
            return x, R, R
    Q, R = torch.linalg.qr(x)
    return Q, R, None


def truncate(s: Spectrum, r: int) -> LowRank:
    """The nearest matrix of rank r, √σ on both sides, strongest first."""
    root = s.sigma[:r].sqrt()
    return LowRank(s.B @ (s.L[:, :r] * root), (root[:, None] * s.R[:r]) @ s.A)


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
