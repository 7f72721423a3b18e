"""One step: what counts how much, what is refused, what is kept in memory."""

from dataclasses import replace

import pytest
import torch
from torch.optim import SGD

from lora_train.model.checkpoint import Family
from lora_train.model.text import TextStates
from lora_train.network.lora import LoraNetwork
from lora_train.network.spec import spec_of
from lora_train.train import prepare
from lora_train.train import step as step_module
from lora_train.train.batch import Batch
from lora_train.train.step import Step
from lora_train.train.watch import BlowUp
from tests.train import runs


@pytest.fixture
def make(checkpoints, tmp_path):
    """A step for some settings, on a model of its own."""

    def made(**changes):
        given = {"block_dims": "", "network_dropout": 0.0, **changes}
        settings = runs.settings_for(tmp_path, checkpoints[Family.SD15], **given)
        device = torch.device("cpu")
        model = runs.pristine(checkpoints[Family.SD15], step_module.compute_dtype(settings, device), device)
        warnings = prepare.prepare(model, settings)
        network = LoraNetwork.create(model, spec_of(settings, model.family), settings.seed)
        generator = torch.Generator().manual_seed(7)
        for name, weight in network.named_parameters():
            if "lora_up" in name:
                weight.data = 0.02 * torch.randn(weight.shape, generator=generator)
        return Step(model, network, settings, total_steps=10, warn=warnings.append)

    return made


def batch_of(rows=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    text = TextStates(torch.randn(rows, 77, 64, generator=g), None)
    latents = 5 * torch.randn(rows, 4, 8, 8, generator=g)
    return Batch(latents, [f"caption {n}" for n in range(rows)], torch.tensor([1.0, 0.5, 2.0, 1.0])[:rows], text=text)


def part(batch, first, count):
    """Some rows of a batch, as a batch of their own."""
    rows = slice(first, first + count)
    text = batch.text.select(list(range(first, first + count)))
    return replace(
        batch, latents=batch.latents[rows], captions=batch.captions[rows], weights=batch.weights[rows], text=text
    )


def weights_of(step):
    return {name: weight.detach().clone() for name, weight in step.network.named_parameters()}


def gradients(step, window, draws=None):
    """The gradient of a window; the weights stay as they are."""
    found = {}

    def keep():
        found.update({name: w.grad.clone() for name, w in step.network.named_parameters() if w.grad is not None})

    before = weights_of(step)
    result = step(window, draws, on_gradients=keep)
    for name, weight in step.network.named_parameters():
        weight.data = before[name]
    return found, float(result.loss)


def close(one, other, tolerance=1e-5):
    scale = max(float(value.abs().max()) for value in one.values())
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance * scale)


def test_two_batches_make_the_gradient_of_one_that_holds_both(make):
    step, whole = make(), batch_of(4)
    draws = step.draw(whole)
    one, loss = gradients(step, [whole], [draws])
    halves = [part(whole, 0, 2), part(whole, 2, 2)]
    two, same_loss = gradients(step, halves, [draws.rows(0, 2), draws.rows(2, 2)])
    close(one, two)
    assert loss == pytest.approx(same_loss, rel=1e-6)


def test_a_short_window_counts_in_full(make):
    """At an epoch's end a window has fewer batches than gradient_accumulation_steps, and a batch fewer pictures."""
    plain, gathering = make(), make(gradient_accumulation_steps=4)
    short = batch_of(1)
    one, loss = gradients(plain, [short])
    other, same_loss = gradients(gathering, [short])
    close(one, other, tolerance=0)
    assert (
        loss
        == same_loss
        == pytest.approx(float(plain.measured(plain.settings)(short, plain.draw(short)).mean()), rel=1e-6)
    )


@pytest.mark.parametrize("split", [2, 3])
def test_the_mean_over_all_processes_is_the_gradient_of_the_whole_batch(make, split):
    """Each of two processes has some rows; what is added up over them is halved, as DistributedDataParallel does."""
    step, whole = make(), batch_of(4)
    alone, _ = gradients(step, [replace(whole, of=4)])
    step.processes = 2
    shares = [(0, split), (split, 4 - split)]
    parts = [gradients(step, [replace(part(whole, *share), first=share[0], of=4)])[0] for share in shares]
    close(alone, {name: (value + parts[1][name]) / 2 for name, value in parts[0].items()})


def test_noise_depends_on_the_place_in_the_whole_batch_alone(make):
    step, whole = make(), batch_of(4)
    draws = step.draw(whole)
    mine = step.draw(replace(part(whole, 1, 2), first=1, of=4))
    assert torch.equal(draws.noise[1:3], mine.noise) and torch.equal(draws.timesteps[1:3], mine.timesteps)


def test_dropout_is_drawn_from_the_batchs_number_alone(make):
    step, batch = make(network_dropout=0.5), batch_of(2)
    first, _ = gradients(step, [batch])
    torch.rand(3)
    again, _ = gradients(step, [batch])
    draws = step.draw(batch)
    step.draw(replace(batch, index=1))
    other, _ = gradients(step, [batch], [draws])
    close(first, again, tolerance=0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_off_where_weights_are_shown(make):
    plain, dropping, batch = make(), make(network_dropout=0.5), batch_of(2)
    draws = plain.draw(batch)
    with plain.resting(), dropping.resting():
        measured = [step.measured(step.settings)(batch, draws) for step in (plain, dropping)]
    assert torch.equal(*measured)
    assert not torch.equal(dropping.measured(dropping.settings)(batch, draws), measured[0])


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamWScheduleFree"])
def test_a_blow_up_leaves_the_weights_alone(make, optimizer):
    step = make(optimizer_type=optimizer)
    step([batch_of(2)])
    before = weights_of(step)
    broken = replace(batch_of(2), weights=torch.tensor([1.0, float("nan")]))
    with pytest.raises(BlowUp, match="intact"):
        step([broken])
    assert runs.same(before, weights_of(step))

    bold = make(optimizer_type=optimizer, stop_on_blow_up=False)
    result = bold([broken])
    assert result.loss.isnan() and len(bold.watch.warnings) == 1


def test_what_is_saved_is_the_average_and_what_is_trained_is_not(make):
    step = make(ema_decay=0.9)
    start = weights_of(step)
    for n in range(3):
        step([replace(batch_of(2), index=n)])
    trained = weights_of(step)
    with step.resting():
        shown = weights_of(step)
    assert runs.same(trained, weights_of(step))
    name = max(trained, key=lambda key: float((trained[key] - start[key]).abs().max()))
    assert not torch.equal(shown[name], trained[name]) and not torch.equal(shown[name], start[name])


def test_gradient_checkpointing_keeps_less_for_the_same_gradient(make):
    batch, kept = batch_of(2), {}

    def measured(step):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        own = {w.untyped_storage().data_ptr() for w in step.model.unet.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = step.losses(batch, step.draw(batch)).mean()
        kept[step.settings.gradient_checkpointing] = sum(n for place, n in storages.items() if place not in own)
        return float(loss.detach())

    plain, saving = make(), make(gradient_checkpointing=True)
    assert measured(plain) == pytest.approx(measured(saving), rel=1e-6)
    assert kept[True] < 0.5 * kept[False]
    close(gradients(plain, [batch])[0], gradients(saving, [batch])[0], tolerance=1e-6)


def test_full_bf16_trains_bf16_weights(make):
    step = make(mixed_precision="bf16", full_bf16=True)
    step.network.to(torch.bfloat16)  # the weights that this test has put in
    found, loss = gradients(step, [batch_of(2)])
    assert {w.dtype for w in step.network.parameters()} == {torch.bfloat16} == {g.dtype for g in found.values()}
    whole = make(mixed_precision="bf16")
    expected, same_loss = gradients(whole, [batch_of(2)])
    assert {w.dtype for w in whole.network.parameters()} == {torch.float32} == {g.dtype for g in expected.values()}
    assert loss == pytest.approx(same_loss, rel=0.02)


def test_gradients_of_full_fp16_are_unscaled():
    """torch's own scaler refuses gradients in fp16; a GPU isn't needed to see that ours doesn't."""
    try:
        scaler = step_module._scaler(torch.float16, torch.device("cpu"))
        scaler.scale(torch.ones(()))
    except (AssertionError, RuntimeError):
        pytest.skip("this torch scales on a GPU only")
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    weight.grad = torch.full((3,), 0.5, dtype=torch.float16)
    optimizer = SGD([weight], lr=1.0)
    scaler._scale.fill_(2.0)
    scaler.unscale_(optimizer)
    assert weight.grad.tolist() == [0.25] * 3
    weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    assert scaler._scale == 2.0


@pytest.mark.slow
def test_a_compiled_unet_computes_the_same(make):
    batch = batch_of(1)
    plain, compiled = make(), make(torch_compile=True)
    close(gradients(plain, [batch])[0], gradients(compiled, [batch])[0], tolerance=1e-3)
