"""Draws: the same numbers for the same (seed, index), whatever else is drawn; the noise made of them as sd-scripts'."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lora_train.settings import TrainSettings
from lora_train.train.noise import Draws, adaptive_strength, draw, generator, offset_noise, pyramid_noise

SHAPE = torch.Size((3, 4, 8, 12))
TABLES = Path(__file__).parent.parent / "data" / "tables"
RECORDED = json.loads((TABLES / "noise.json").read_text("utf-8"))["draws"]
EVERYTHING = {
    "noise_offset": 0.1,
    "noise_offset_random_strength": True,
    "ip_noise_gamma": 0.1,
    "ip_noise_gamma_random_strength": True,
    "multires_noise_iterations": 6,
}


def recorded(case: dict) -> tuple[dict[str, torch.Tensor], Draws]:
    """A recorded call of sd-scripts: its tensors, and the same draws as ours."""
    tensors = {}
    for key, value in load_file(TABLES / "noise.safetensors").items():
        index, _, name = key.partition(".")
        if int(index) == case["index"]:
            tensors[name] = value
    drawn = {"randn_like": [], "randn": [], "rand": []}
    for key in sorted((k for k in tensors if "." in k), key=lambda k: int(k.split(".")[0])):
        drawn.setdefault(key.split(".")[1], []).append(tensors[key])
    options = case["options"]
    strengths = torch.ones(2)
    for i, name in enumerate(("noise_offset_random_strength", "ip_noise_gamma_random_strength")):
        if options.get(name):
            strengths[i] = drawn["rand"].pop(0)[0]
    offset = drawn["randn"].pop(0) if options.get("noise_offset") else torch.zeros((*case["shape"][:2], 1, 1))
    ip = drawn["randn_like"][1] if options.get("ip_noise_gamma") else None
    return tensors, Draws(drawn["randn_like"][0], offset, tensors["timesteps"], strengths, ip, drawn["randn"])


def same(a: Draws, b: Draws, *names: str) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_plain_draws_are_what_they_always_were():
    g = torch.Generator().manual_seed((42 * 6364136223846793005 + 7 * 1442695040888963407 + 1) % 2**63)
    draws = draw(SHAPE, 42, 7, TrainSettings())
    assert torch.equal(draws.noise, torch.randn(SHAPE, generator=g))
    assert torch.equal(draws.offset, torch.randn((3, 4, 1, 1), generator=g))
    assert torch.equal(draws.timesteps, torch.randint(0, 1000, (3,), generator=g))
    assert draws.ip is None and draws.pyramid == [] and draws.strengths.tolist() == [1, 1]


def test_options_leave_the_other_draws_alone():
    plain, full = draw(SHAPE, 1, 2, TrainSettings()), draw(SHAPE, 1, 2, TrainSettings(**EVERYTHING))
    assert same(plain, full, "noise", "offset", "timesteps")
    for name in EVERYTHING:
        part = draw(SHAPE, 1, 2, TrainSettings(**{**EVERYTHING, name: type(EVERYTHING[name])()}))
        assert part.ip is None or torch.equal(part.ip, full.ip)
        assert all(torch.equal(a, b) for a, b in zip(part.pyramid, full.pyramid, strict=False))
        assert same(part, full, "strengths")


@pytest.mark.parametrize("change", [{"seed": 2}, {"index": 3}])
def test_another_seed_or_index_changes_everything(change):
    place = {"seed": 1, "index": 2}
    options = TrainSettings(**EVERYTHING)
    a, b = draw(SHAPE, settings=options, **place), draw(SHAPE, settings=options, **{**place, **change})
    assert not any(same(a, b, name) for name in ("noise", "offset", "timesteps", "strengths", "ip"))
    assert not torch.equal(a.pyramid[0], b.pyramid[0])


@given(st.integers(0, 998), st.integers(1, 1000))
def test_timesteps_stay_in_their_range(low, width):
    high = min(1000, low + width)
    timesteps = draw(torch.Size((256, 1, 1, 1)), 5, low, TrainSettings(min_timestep=low, max_timestep=high)).timesteps
    assert int(timesteps.min()) >= low and int(timesteps.max()) < high
    if high - low < 8:
        assert set(timesteps.tolist()) == set(range(low, high))


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 10))
def test_a_pyramids_levels_shrink_by_2_to_4_until_one_pixel(height, width, iterations):
    options = TrainSettings(multires_noise_iterations=iterations)
    sizes = [tuple(level.shape) for level in draw(torch.Size((2, 4, height, width)), 1, 1, options).pyramid]
    assert sizes[0] == (2, 4, height, width)
    assert 1 <= len(sizes) <= iterations
    assert len(sizes) == iterations or 1 in sizes[-1][2:]
    assert all(1 not in size[2:] for size in sizes[:-1])
    for i, (_, _, h, w) in enumerate(sizes[1:], 1):
        assert max(1, height // 4**i) <= h <= max(1, height // 2**i)
        assert max(1, width // 4**i) <= w <= max(1, width // 2**i)


def test_rows_of_a_batch():
    whole = draw(SHAPE, 1, 2, TrainSettings(**EVERYTHING))
    parts = [whole.rows(0, 1), whole.rows(1, 2)]
    for name in ("noise", "offset", "timesteps", "ip"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert all(same(part, whole, "strengths") for part in parts)
    assert torch.equal(torch.cat([part.pyramid[1] for part in parts]), whole.pyramid[1])


def test_on_another_device_they_are_the_same():
    whole = draw(SHAPE, 1, 2, TrainSettings(**EVERYTHING))
    moved = whole.to(torch.device("meta"))
    assert {t.device.type for t in (moved.noise, moved.offset, moved.timesteps, moved.strengths, moved.ip)} == {"meta"}
    assert [level.shape for level in moved.pyramid] == [level.shape for level in whole.pyramid]
    assert same(whole.to(torch.device("cpu")), whole, "noise", "offset", "timesteps", "strengths", "ip")


def test_counters_are_not_mixed_up():
    seeds = [
        generator(*counters).initial_seed() for counters in ((1,), (1, 0), (1, 1), (1, 0, 1), (1, 1, 0), (1, 0, -1))
    ]
    assert len(set(seeds)) == len(seeds)


def test_pyramid_noise_has_unit_deviation_and_is_smoother():
    draws = draw(torch.Size((4, 4, 32, 32)), 1, 2, TrainSettings(multires_noise_iterations=8))
    noise = pyramid_noise(draws.noise, draws.pyramid, 0.8)
    assert float(noise.std()) == pytest.approx(1, abs=1e-6)
    assert neighbours_differ(noise) < 0.9 * neighbours_differ(draws.noise)
    both = draws.noise + draws.pyramid[0]
    assert torch.allclose(pyramid_noise(draws.noise, draws.pyramid[:1], 0.5), both / both.std(), atol=1e-6)


def neighbours_differ(x: torch.Tensor) -> float:
    return float((x[..., 1:] - x[..., :-1]).std())


def test_adaptive_strength_follows_the_latents_mean_and_stays_positive():
    x_0 = torch.zeros(1, 2, 4, 4)
    x_0[0, 0], x_0[0, 1] = 3.0, -1.0
    assert adaptive_strength(0.1, 0.2, x_0).flatten().tolist() == pytest.approx([0.7, 0.3])
    assert adaptive_strength(0.1, -0.05, x_0).flatten().tolist() == pytest.approx([0, 0.05])


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: str(case["index"]))
def test_the_noise_of_sd_scripts(case):
    tensors, draws = recorded(case)
    s = TrainSettings(**case["options"])
    noise = draws.noise
    if s.noise_offset:
        strength = draws.strengths[0] * s.noise_offset if s.noise_offset_random_strength else s.noise_offset
        if s.adaptive_noise_scale is not None:
            strength = adaptive_strength(strength, s.adaptive_noise_scale, tensors["latents"])
        noise = offset_noise(noise, draws.offset, strength)
    if s.multires_noise_iterations:
        noise = pyramid_noise(noise, draws.pyramid, s.multires_noise_discount)
    assert torch.allclose(noise, tensors["noise"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in RECORDED if c["random"]], ids=lambda case: str(case["index"]))
def test_the_sizes_of_sd_scripts_levels(case):
    """The same random numbers give levels of the same sizes."""
    _, draws = recorded(case)
    height, width = case["shape"][2:]
    for i, (number, level) in enumerate(zip(case["random"], draws.pyramid, strict=True)):
        r = number * 2 + 2
        assert tuple(level.shape[2:]) == (max(1, int(height / r**i)), max(1, int(width / r**i)))
