"""What the model sees, its target and the loss: against diffusers, double precision and sd-scripts' own values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lora_train.settings import TrainSettings
from lora_train.train.noise import Draws, draw
from lora_train.train.objective import Objective, alphas_cumprod
from tests.train import test_noise

TABLE = json.loads((Path(__file__).parent.parent / "data" / "tables" / "noise.json").read_text("utf-8"))
CPU = torch.device("cpu")
SHAPE = torch.Size((3, 4, 8, 8))
X_0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))


def noisy(**options) -> tuple[torch.Tensor, torch.Tensor, Draws]:
    settings = TrainSettings(**options)
    draws = draw(SHAPE, 1, 2, settings)
    return *Objective(settings, CPU).noisy(X_0, draws), draws


def losses(masks=None, weights=None, timesteps=(0, 500, 999), **options) -> torch.Tensor:
    g = torch.Generator().manual_seed(4)
    prediction, target = (torch.randn(SHAPE, generator=g) for _ in range(2))
    weights = torch.ones(3) if weights is None else weights
    return Objective(TrainSettings(**options), CPU).losses(prediction, target, torch.tensor(timesteps), weights, masks)


def diffusers_schedule(zero: bool) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero)


@pytest.mark.parametrize("zero", [False, True])
def test_the_forward_process_is_diffusers(zero):
    timesteps = torch.tensor([0, 499, 999])
    for v in (False, True):
        settings = TrainSettings(v_parameterization=v, zero_terminal_snr=zero)
        draws = draw(SHAPE, 1, 2, settings)
        draws.timesteps = timesteps
        x_t, target = Objective(settings, CPU).noisy(X_0, draws)
        schedule = diffusers_schedule(zero)
        assert torch.equal(x_t, schedule.add_noise(X_0, draws.noise, timesteps))
        assert torch.equal(target, schedule.get_velocity(X_0, draws.noise, timesteps) if v else draws.noise)


@pytest.mark.parametrize("name", ["plain", "zero_terminal_snr"])
def test_the_schedule_of_sd_scripts(name):
    t = TABLE["timesteps"]
    expected = TABLE["scheduler"][name]["alphas_cumprod"]  # processors differ in the last bits of float32
    assert alphas_cumprod(name == "zero_terminal_snr")[t].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    for case in TABLE["forward"][name]:
        settings = TrainSettings(v_parameterization=True, zero_terminal_snr=name == "zero_terminal_snr")
        x_0, noise = torch.tensor([0.5, -1.0]).view(2, 1, 1, 1), torch.tensor([0.25, 2.0]).view(2, 1, 1, 1)
        draws = Draws(noise, torch.zeros_like(noise), torch.tensor([case["t"]] * 2))
        x_t, v = Objective(settings, CPU).noisy(x_0, draws)
        assert x_t.flatten().tolist() == pytest.approx(case["noisy"], rel=1e-6)
        assert v.flatten().tolist() == pytest.approx(case["velocity"], rel=1e-6)


def test_zero_terminal_snr_ends_in_pure_noise():
    abar = alphas_cumprod(zero_terminal_snr=True)
    assert abar[-1] == 0 and abar[0] == pytest.approx(float(alphas_cumprod()[0]), rel=1e-6)
    assert alphas_cumprod()[-1] > 0.004
    root = alphas_cumprod().double().sqrt().numpy()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2  # algorithm 1 of Lin et al. 2023
    assert np.allclose(abar.double().numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", TABLE["draws"], ids=lambda case: str(case["index"]))
def test_the_noisy_latents_of_sd_scripts(case):
    tensors, draws = test_noise.recorded(case)
    x_t, target = Objective(TrainSettings(**case["options"]), CPU).noisy(tensors["latents"], draws)
    assert torch.allclose(target, tensors["noise"], rtol=0, atol=2e-6)
    assert torch.allclose(x_t, tensors["noisy"], rtol=0, atol=2e-6)


def test_noise_offset_shifts_channels_and_is_part_of_the_target():
    _, plain, draws = noisy()
    x_t, target, _ = noisy(noise_offset=0.1)
    assert torch.equal(target, plain + 0.1 * draws.offset)
    _, random, drawn = noisy(noise_offset=0.1, noise_offset_random_strength=True)
    assert torch.allclose(random, plain + 0.1 * drawn.strengths[0] * draws.offset)
    _, adaptive, _ = noisy(noise_offset=0.1, adaptive_noise_scale=0.5)
    strength = 0.1 + 0.5 * X_0.mean(dim=(2, 3), keepdim=True).abs()
    assert torch.allclose(adaptive, plain + strength * draws.offset)
    assert torch.allclose(x_t, diffusers_schedule(False).add_noise(X_0, target, draws.timesteps))


def test_ip_noise_disturbs_only_what_the_model_sees():
    plain, target, _ = noisy()
    x_t, same_target, draws = noisy(ip_noise_gamma=0.2)
    sigma = (1 - alphas_cumprod()[draws.timesteps]).sqrt().view(-1, 1, 1, 1)
    assert torch.equal(same_target, target)
    assert torch.allclose(x_t - plain, 0.2 * sigma * draws.ip, atol=1e-6)
    random, _, drawn = noisy(ip_noise_gamma=0.2, ip_noise_gamma_random_strength=True)
    assert torch.allclose(random - plain, 0.2 * drawn.strengths[1] * sigma * draws.ip, atol=1e-6)


def test_multires_noise_comes_after_the_offset():
    _, target, draws = noisy(noise_offset=0.1, multires_noise_iterations=4)
    assert float(target.std()) == pytest.approx(1, abs=1e-6)
    assert not torch.equal(target, noisy(multires_noise_iterations=4)[1])
    assert not torch.equal(target, noisy(noise_offset=0.1, multires_noise_iterations=4, multires_noise_discount=0.8)[1])
    assert len(draws.pyramid) > 1


def test_half_precision_latents_are_noised_in_float32():
    draws = draw(SHAPE, 1, 2, TrainSettings())
    x_t, target = Objective(TrainSettings(), CPU).noisy(X_0.bfloat16(), draws)
    assert x_t.dtype is target.dtype is torch.float32
    assert torch.equal(x_t, diffusers_schedule(False).add_noise(X_0.bfloat16().float(), draws.noise, draws.timesteps))


@pytest.mark.parametrize("case", TABLE["weights"], ids=lambda case: "+".join(case["options"]))
def test_the_weights_of_sd_scripts(case):
    """Of a prediction that is off by 1 everywhere, so that its plain loss is 1."""
    settings = TrainSettings(**case["options"], zero_terminal_snr=case["zero_terminal_snr"])
    timesteps = torch.tensor(TABLE["timesteps"])
    target = torch.zeros(len(timesteps), 4, 2, 2)
    ours = Objective(settings, CPU).losses(target + 1, target, timesteps, torch.ones(len(timesteps)))
    assert ours.tolist() == pytest.approx(case["weights"], rel=1e-6)


def test_weights_ignore_zero_terminal_snr():
    """As in sd-scripts, and as the last weight would be 0 otherwise."""
    options = {"min_snr_gamma": 5.0, "v_parameterization": True}
    assert torch.equal(losses(**options), losses(**options, zero_terminal_snr=True))


def test_plain_loss_is_the_mean_square():
    g = torch.Generator().manual_seed(4)
    d = torch.randn(SHAPE, generator=g).double() - torch.randn(SHAPE, generator=g).double()
    assert losses().tolist() == pytest.approx((d**2).mean(dim=(1, 2, 3)).tolist(), rel=1e-6)


def test_pictures_have_weights_of_their_own():
    weights = torch.tensor([1.0, 0.5, 0.0])
    assert torch.equal(losses(weights=weights, min_snr_gamma=5.0), weights * losses(min_snr_gamma=5.0))


def test_a_mask_hides_without_making_up_for_its_area():
    half = torch.ones(3, 1, 8, 8)
    half[..., 4:] = 0
    assert torch.equal(losses(masks=torch.ones(3, 1, 8, 8)), losses())
    assert torch.allclose(losses(masks=half) + losses(masks=1 - half), losses(), rtol=1e-6)
    assert torch.allclose(losses(masks=0.25 * torch.ones(3, 1, 8, 8)), 0.25 * losses())


@pytest.mark.parametrize(
    "options",
    [
        {"min_snr_gamma": 5.0},
        {"min_snr_gamma": 1.0},
        {"debiased_estimation_loss": True},
        {"v_pred_like_loss": 0.5},
        {"scale_v_pred_loss_like_noise_pred": True},
        {"loss_type": "l1"},
        {"loss_type": "huber"},
        {"loss_type": "smooth_l1"},
    ],
    ids=str,
)
def test_every_option_changes_the_loss(options):
    assert not torch.allclose(losses(**options), losses())


@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_every_option_of_huber_changes_the_loss(kind):
    options = [{}, {"huber_schedule": "exponential"}, {"huber_schedule": "constant"}, {"huber_c": 0.3}]
    options.append({"huber_schedule": "constant", "huber_scale": 2.0})
    results = [losses(loss_type=kind, **o) for o in options]
    assert not any(torch.allclose(a, b) for i, a in enumerate(results) for b in results[:i])


def test_the_huber_threshold_follows_the_timestep():
    """The loss is d^2 for small errors and 2 c |d| for large ones; c falls with t."""
    constant = losses(loss_type="huber", huber_schedule="constant")
    falling = losses(loss_type="huber", huber_schedule="exponential")
    assert falling[0] > 2 * constant[0] and falling[1] > constant[1]
    assert falling[2] == pytest.approx(float(constant[2]), rel=0.01)


def test_gradients_reach_the_prediction_only():
    prediction = torch.zeros(SHAPE, requires_grad=True)
    x_t, target, draws = noisy(noise_offset=0.1)
    assert not x_t.requires_grad and not target.requires_grad
    Objective(TrainSettings(), CPU).losses(prediction, target, draws.timesteps, torch.ones(3)).sum().backward()
    assert torch.allclose(prediction.grad, -2 * target / target[0].numel(), rtol=1e-5)


@pytest.mark.gpu
def test_a_step_waits_for_no_gpu():
    device = torch.device("cuda")
    settings = TrainSettings(**test_noise.EVERYTHING, min_snr_gamma=5.0, loss_type="huber")
    objective, x_0 = Objective(settings, device), X_0.to(device)
    one = torch.ones(3, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        draws = draw(SHAPE, 1, 2, settings).to(device)
        x_t, target = objective.noisy(x_0, draws)
        objective.losses(x_t, target, draws.timesteps, one)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, _ = Objective(settings, CPU).noisy(X_0, draw(SHAPE, 1, 2, settings))
    assert torch.allclose(x_t.cpu(), expected, atol=1e-6)
