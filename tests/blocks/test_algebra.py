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
    q = len(s.sigma)
    torch.testing.assert_close((s.U(q) * s.sigma) @ s.Vt(q), dense(x))


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
    torch.testing.assert_close(dense(algebra.flatten(up.double(), down.double())).reshape(m, c, k, k), wanted)


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


@quick
@given(sizes, sizes, st.integers(1, 3), st.integers(1, 3), seeds)
def test_products_of_low_rank_matrices(m: int, n: int, r: int, q: int, seed: int) -> None:
    x, y, z = low_rank(m, n, r, seed), low_rank(m, n, q, seed + 1), low_rank(n, m, q, seed + 2)
    torch.testing.assert_close(dense(algebra.hadamard(x, y)), dense(x) * dense(y))
    torch.testing.assert_close(dense(algebra.kronecker(x, z)), torch.kron(dense(x), dense(z)))
    assert algebra.hadamard(x, y).rank == algebra.kronecker(x, z).rank == r * q


@quick
@given(sizes, sizes, st.lists(st.tuples(factors, st.integers(1, 6), seeds), min_size=1, max_size=4))
def test_order_does_not_matter(m: int, n: int, terms: list[tuple[float, int, int]]) -> None:
    parts = [(k, low_rank(m, n, r, seed)) for k, r, seed in terms]
    forward, backward = algebra.weighted_sum(parts), algebra.weighted_sum(parts[::-1])
    torch.testing.assert_close(dense(forward), dense(backward))


@quick
@given(
    st.integers(20, 60),
    st.integers(20, 60),
    st.lists(st.tuples(factors, st.integers(1, 6), seeds), min_size=1, max_size=3, unique_by=lambda term: term[2]),
    st.sampled_from([torch.float16, torch.bfloat16]),
)
def test_the_quick_sum_reports_its_own_error(
    m: int, n: int, terms: list[tuple[float, int, int]], dtype: torch.dtype
) -> None:
    """Of files in 16 bits; where it can't tell it says so."""
    parts = [(k, low_rank(m, n, r, seed).to(dtype)) for k, r, seed in terms]
    wanted = sum(k * dense(x.to(torch.float64)) for k, x in parts)
    found = algebra.rounded_sum(parts, dtype)
    if found is not None:
        error = float((dense(found.matrix.to(torch.float64)) - wanted).norm())
        assert found.norm == pytest.approx(float(wanted.norm()), rel=1e-5)
        assert found.error == pytest.approx(error, rel=2e-3, abs=1e-6 * found.norm)
        assert error <= torch.finfo(dtype).eps / 2 * found.norm * 2


@pytest.mark.parametrize("kind", ["random", "equal columns", "unequal rows", "few rows", "one source"])
def test_the_error_of_a_tall_sum_is_told_from_some_of_its_rows(kind: str) -> None:
    """Within 3 %, also where roundings know of each other or where few rows count."""
    x, y = (low_rank(2300, 700, 12, seed) for seed in (0, 1))
    if kind == "equal columns":
        x = LowRank(x.B[:, :1].expand(-1, 12).contiguous(), x.A)
    elif kind == "unequal rows":
        x = LowRank(x.B * torch.logspace(-3, 1, 2300, dtype=x.B.dtype)[:, None], x.A)
    elif kind == "few rows":
        x = LowRank(torch.cat([x.B[:40], x.B[40:] * 1e-3]), x.A)
    parts = [(0.6, x.to(torch.float16)), *([] if kind == "one source" else [(-0.35, y.to(torch.float16))])]
    found = algebra.rounded_sum(parts, torch.float16)
    assert found is not None
    wanted = sum(k * dense(one.to(torch.float64)) for k, one in parts)
    error = float((dense(found.matrix.to(torch.float64)) - wanted).norm())
    assert found.error == pytest.approx(error, rel=0.03)
    assert found.norm == pytest.approx(float(wanted.norm()), rel=1e-5)


def test_the_quick_sum_keeps_down_bit_by_bit() -> None:
    x = low_rank(40, 30, 4, 1).to(torch.float16)
    found = algebra.rounded_sum([(0.3, x)], torch.float16)
    assert found is not None
    ratio = found.matrix.A.double() / x.A.double()
    assert ratio.unique().numel() == 1
    assert float(ratio[0, 0].log2()) == round(float(ratio[0, 0].log2()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_quick_sum_leaves_its_terms_as_they_are(dtype: torch.dtype) -> None:
    x = low_rank(40, 30, 4, 1).to(dtype)
    before = x.B.clone(), x.A.clone()
    for factor in (0.3, 300.0, 1e-3):
        algebra.rounded_sum([(factor, x)], torch.float16)
    assert torch.equal(x.B, before[0])
    assert torch.equal(x.A, before[1])


def test_the_quick_sum_does_not_answer_where_terms_cancel_or_overflow() -> None:
    x = low_rank(40, 30, 4, 1).to(torch.float16)
    assert algebra.rounded_sum([(1.0, x), (-0.999, x)], torch.float16) is None
    assert algebra.rounded_sum([(1e30, x)], torch.float16) is None


@quick
@given(sizes, sizes, sizes, seeds, st.floats(0, 1e-3))
def test_rounding_error_equals_the_dense_difference(m: int, n: int, r: int, seed: int, by: float) -> None:
    x, noise = low_rank(m, n, r, seed), low_rank(m, n, r, seed + 1)
    y = LowRank(x.B + by * noise.B, x.A + by * noise.A)
    found = algebra.rounding_error(x, y, algebra.gram(x.A.T))
    assert found == pytest.approx(float((dense(x) - dense(y)).norm()), rel=1e-6, abs=1e-9 * float(dense(x).norm()))


@pytest.mark.parametrize("r", [3, 130, 201])
def test_gram(r: int) -> None:
    x = low_rank(50, 5, r, 0).B
    torch.testing.assert_close(algebra.gram(x), x.T @ x)


def test_nearly_dependent_columns_keep_their_digits() -> None:
    """Where Cholesky would lose them: two LoRAs from one start."""
    x, noise = low_rank(60, 50, 6, 0), low_rank(60, 50, 6, 1)
    y = LowRank(x.B + 1e-7 * noise.B, x.A + 1e-7 * noise.A)
    total = algebra.weighted_sum([(1.0, x), (-1.0, y)])
    s = algebra.spectrum(total)
    torch.testing.assert_close(dense(algebra.truncate(s, 12)), dense(total), rtol=1e-6, atol=1e-13)
