"""The running average: its formula, its precision, and that the weights come back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_train.errors import UserError
from lora_train.train.ema import Ema


def parameters(*shapes, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in shapes]


def move(params, step):
    with torch.no_grad():
        for p in params:
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))


@given(st.floats(0, 0.9999), st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30))
def test_the_formula(decay, weights):
    parameter = nn.Parameter(torch.tensor([1.0]))
    ema, expected = Ema([parameter], decay), 1.0
    for n, weight in enumerate(weights, 1):
        parameter.data.fill_(weight)
        ema.update()
        a = min(decay, (1 + n) / (10 + n))
        expected = a * expected + (1 - a) * weight
    assert float(ema.shadow[0]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_bit_for_bit(dtype):
    params = parameters((3, 2), (4,), dtype=dtype)
    params[0].data[0, 0] = float("nan")
    ema = Ema(iter(params), 0.5)
    for step in range(3):
        move(params[1:], step)
        ema.update()
    before = [p.detach().clone().view(torch.uint8) for p in params]
    identities = [p.data_ptr() for p in params]
    with pytest.raises(KeyboardInterrupt), ema.applied():
        assert torch.equal(params[1], ema.shadow[1].to(dtype))
        assert not torch.equal(params[1].detach().view(torch.uint8), before[1])
        raise KeyboardInterrupt
    assert all(torch.equal(p.detach().view(torch.uint8), b) for p, b in zip(params, before, strict=True))
    assert identities == [p.data_ptr() for p in params]


def test_small_changes_add_up_beneath_half_precision():
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    ema = Ema([parameter], 0.999)
    parameter.data.fill_(1.0078125)  # the next number in bf16
    for _ in range(20_000):
        ema.update()
    assert ema.shadow[0].dtype is torch.float32
    assert float(ema.shadow[0]) == pytest.approx(1.0078125, rel=1e-5)


def test_a_training_is_not_changed_by_it():
    def train(with_ema):
        params = parameters((3, 2))
        optimizer, ema = torch.optim.AdamW(params, lr=0.1), Ema(params, 0.9)
        for step in range(5):
            (params[0] * step - 1).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if with_ema:
                ema.update()
                with ema.applied():
                    params[0].sum().item()
        return params[0].detach()

    assert torch.equal(train(True), train(False))


def test_saved_and_loaded():
    params = parameters((3, 2), (4,))
    ema, other = Ema(params, 0.9), Ema(parameters((3, 2), (4,)), 0.9)
    for step in range(4):
        move(params, step)
        ema.update()
    other.load_state_dict(ema.state_dict())
    assert other.updates == 4 and all(map(torch.equal, ema.shadow, other.shadow))
    ema.update()
    assert not torch.equal(ema.shadow[0], other.shadow[0])  # a copy
    with pytest.raises(UserError, match="of other weights"):
        Ema(parameters((3, 2)), 0.9).load_state_dict(ema.state_dict())


def test_reset_begins_at_the_present_weights():
    params = parameters((2,))
    ema = Ema(params, 0.9)
    move(params, 1)
    ema.update()
    ema.reset()
    assert ema.updates == 0 and torch.equal(ema.shadow[0], params[0])
