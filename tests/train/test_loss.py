"""The formulas of the loss against the same in NumPy, double precision, and against sd-scripts' own values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.train import loss
from lora_train.train.objective import alphas_cumprod

TABLE = json.loads((Path(__file__).parent.parent / "data" / "tables" / "noise.json").read_text("utf-8"))
SNR = torch.tensor([1e-4, 0.1, 1.0, 5.0, 20.0, 1175.4])
snr = SNR.double().numpy()


def close(ours: torch.Tensor, theirs: object, tolerance: float = 1e-6) -> bool:
    return np.allclose(ours.double().numpy(), np.asarray(theirs, dtype=float), rtol=tolerance, atol=0)


def test_signal_to_noise():
    abar = torch.tensor([0.9991, 0.5, 0.0047])
    assert close(loss.signal_to_noise(abar), abar.double().numpy() / (1 - abar.double().numpy()), 1e-4)


def test_weights():
    clamped = np.minimum(snr, 1000)
    assert close(loss.min_snr_weight(SNR, 5), np.minimum(snr, 5) / snr)
    assert close(loss.min_snr_weight(SNR, 5, v_prediction=True), np.minimum(snr, 5) / (snr + 1))
    assert close(loss.noise_like_weight(SNR), clamped / (clamped + 1))
    assert close(loss.v_like_weight(SNR, 0.4), 1 + 0.4 * (clamped + 1) / clamped)
    assert close(loss.debiased_weight(SNR), 1 / np.sqrt(clamped))
    assert close(loss.debiased_weight(SNR, v_prediction=True), 1 / (clamped + 1))


@given(st.floats(0.01, 5), st.integers(0, 1000))
def test_noise_like_weight_turns_an_error_of_v_into_one_of_the_noise(error, seed):
    """With x_t known, eps = sigma x_t + signal v."""
    abar = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.99 + 0.005
    error_of_eps = abar.sqrt() * error
    assert float(loss.noise_like_weight(loss.signal_to_noise(abar)) * error**2) == pytest.approx(float(error_of_eps**2))


@pytest.mark.parametrize("case", TABLE["huber"], ids=lambda c: "-".join(str(v) for v in list(c.values())[:4]))
def test_thresholds_of_sd_scripts(case):
    abar = alphas_cumprod(case["zero_terminal_snr"])
    ours = loss.huber_threshold(abar, case["huber_schedule"], case["huber_c"], case["huber_scale"])
    assert close(ours[TABLE["timesteps"]], case["thresholds"], 1e-6)


def test_thresholds():
    abar = torch.tensor([0.99, 0.5, 0.1, 0.0])
    assert loss.huber_threshold(abar, "constant", 0.2, 3).tolist() == pytest.approx([0.6] * 4)
    t = np.arange(4)
    assert close(loss.huber_threshold(abar, "exponential", 0.1, 2), 2 * np.exp(np.log(0.1) * t / 4))
    sigma = np.sqrt((1 - abar.double().numpy()[:3]) / abar.double().numpy()[:3])
    expected = [*(0.9 / (1 + sigma) ** 2 + 0.1), 0.1]
    assert close(loss.huber_threshold(abar, "snr", 0.1, 7), expected)


@pytest.mark.parametrize("kind", ["l2", "l1", "huber", "smooth_l1"])
def test_pointwise(kind):
    g = torch.Generator().manual_seed(3)
    prediction, target = (torch.randn((3, 4, 5, 6), generator=g) for _ in range(2))
    delta = torch.tensor([0.1, 1.0, 0.5])
    d = prediction.double().numpy() - target.double().numpy()
    c = delta.double().numpy()[:, None, None, None]
    expected = {
        "l2": d**2,
        "l1": np.abs(d),
        "huber": 2 * c * (np.sqrt(d**2 + c**2) - c),
        "smooth_l1": 2 * (np.sqrt(d**2 + c**2) - c),
    }[kind]
    ours = loss.pointwise(prediction, target, kind, delta)
    assert ours.shape == prediction.shape and ours.dtype is torch.float32
    assert np.allclose(ours.double().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_half_precision_predictions_are_measured_in_float32():
    prediction = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    assert float(loss.pointwise(prediction, torch.zeros(1, 1, 1, 1), "l2")) == 90_000  # more than float16 holds


@pytest.mark.parametrize("case", TABLE["losses"], ids=lambda c: c["loss_type"])
def test_losses_of_sd_scripts(case):
    inputs = {name: torch.tensor(values) for name, values in TABLE["loss_inputs"].items()}
    ours = loss.pointwise(inputs["prediction"], inputs["target"], case["loss_type"], inputs["huber_c"])
    # sqrt(d^2 + delta^2) - delta loses digits where d is small: which ones, depends on the processor
    assert np.allclose(ours.double().numpy(), case["loss"], rtol=1e-6, atol=3e-7)
