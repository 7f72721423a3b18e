from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_train.blocks import algebra
from lora_train.blocks.algebra import LowRank

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31)
factors = st.floats(-3, 3).filter(lambda k: abs(k) > 1e-6)
quick = settings(max_examples=40, deadline=None)


def low_rank(m: int, n: int, r: int, seed: int) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(m, r, generator=g).double(), torch.randn(r, n, generator=g).double())


def dense(x: LowRank) -> Tensor:
    return x.B @ x.A


@quick
@given(sizes, sizes, st.lists(st.tuples(factors, st.integers(1, 6), seeds), min_size=1, max_size=4))
def test_weighted_sum_is_linear_and_keeps_signs(m: int, n: int, terms: list[tuple[float, int, int]]) -> None:
    parts = [(k, low_rank(m, n, r, seed)) for k, r, seed in terms]
    wanted = sum(k * dense(x) for k, x in parts)
    found = algebra.weighted_sum(parts)
    assert found.rank == sum(r for _, r, _ in terms)
    torch.testing.assert_close(dense(found), wanted)


@quick
@given(sizes, sizes, sizes, seeds)
def test_sign_is_on_up_only(m: int, n: int, r: int, seed: int) -> None:
    x = low_rank(m, n, r, seed)
    plus, minus = algebra.weighted_sum([(0.5, x)]), algebra.weighted_sum([(-0.5, x)])
    assert torch.equal(plus.A, minus.A)
    assert torch.equal(plus.B, -minus.B)


@quick
@given(sizes, sizes, sizes, seeds)
def test_norm_equals_dense_norm(m: int, n: int, r: int, seed: int) -> None:
    x = low_rank(m, n, r, seed)
    assert algebra.norm(x) == pytest.approx(float(dense(x).norm()), rel=1e-12)


@quick
@given(sizes, sizes, sizes, seeds)
def test_spectrum_equals_dense_spectrum(m: int, n: int, r: int, seed: int) -> None:
    x = low_rank(m, n, r, seed)
    s = algebra.spectrum(x)
    wanted = torch.linalg.svdvals(dense(x))
    torch.testing.assert_close(s.sigma, wanted[: len(s.sigma)])
    torch.testing.assert_close((s.U * s.sigma) @ s.Vt, dense(x))


@quick
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 8), st.integers(1, 8), seeds)
def test_truncation_error_is_the_tail(m: int, n: int, r: int, keep: int, seed: int) -> None:
    x = low_rank(m, n, r, seed)
    s = algebra.spectrum(x)
    keep = min(keep, len(s.sigma))
    error = float((dense(algebra.truncate(s, keep)) - dense(x)).norm() / dense(x).norm())
    assert error == pytest.approx(float(algebra.tail_errors(s.sigma)[keep]), rel=1e-9, abs=1e-14)


@quick
@given(sizes, sizes, sizes, seeds)
def test_truncation_splits_sigma_evenly_and_sorts(m: int, n: int, r: int, seed: int) -> None:
    x = algebra.spectrum(low_rank(m, n, r, seed))
    y = algebra.truncate(x, len(x.sigma))
    torch.testing.assert_close(y.B.norm(dim=0), y.A.norm(dim=1))
    assert bool((x.sigma.diff() <= 0).all())


@quick
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_rank_for_is_the_smallest(values: list[float], target: float) -> None:
    sigma = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    errors = algebra.tail_errors(sigma)
    r = algebra.rank_for(sigma, target)
    assert float(errors[r]) <= target
    assert r == 1 or float(errors[r - 1]) > target


@quick
@given(sizes, sizes, st.integers(1, 3), st.integers(1, 5), seeds)
def test_convolution_is_flattened(m: int, c: int, k: int, r: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    up, down = torch.randn(m, r, 1, 1, generator=g), torch.randn(r, c, k, k, generator=g)
    wanted = torch.einsum("mr,rchw->mchw", up[:, :, 0, 0].double(), down.double())
    torch.testing.assert_close(dense(algebra.flatten(up, down)).reshape(m, c, k, k), wanted)


@quick
@given(sizes, sizes, st.integers(1, 5), st.integers(1, 5), seeds)
def test_tucker_core_is_folded_into_down(m: int, c: int, r: int, q: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    up, mid, down = (torch.randn(shape, generator=g) for shape in ((m, r, 1, 1), (r, q, 3, 3), (q, c, 1, 1)))
    wanted = torch.einsum("mr,rqhw,qc->mchw", up.flatten(1).double(), mid.double(), down.flatten(1).double())
    torch.testing.assert_close(dense(algebra.flatten(up, down, mid)).reshape(m, c, 3, 3), wanted)


def test_numerical_rank_ignores_what_rounding_leaves() -> None:
    x = low_rank(10, 10, 3, 0)
    assert algebra.numerical_rank(algebra.spectrum(algebra.weighted_sum([(1.0, x), (0.5, x)])).sigma) == 3
