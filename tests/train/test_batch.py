"""A batch on its way to a device."""

import torch

from lora_train.model.text import TextStates
from lora_train.train.batch import Batch


def test_three_fields_are_enough():
    batch = Batch(torch.zeros(2, 4, 8, 8), ["a", "b"], torch.ones(2)).to("cpu")
    assert (batch.masks, batch.sizes, batch.text, batch.index, batch.first, batch.of) == (None, None, None, 0, 0, 0)


def test_every_tensor_moves_and_the_rest_stays():
    text = TextStates(torch.zeros(1, 77, 4), torch.zeros(1, 4))
    one = torch.ones(1)
    batch = Batch(torch.zeros(1, 4, 8, 8), ["a"], one, torch.ones(1, 1, 8, 8), torch.ones(1, 6), text, 5, 1, 3)
    moved = batch.to("meta", non_blocking=True)
    tensors = (moved.latents, moved.weights, moved.masks, moved.sizes, moved.text.states, moved.text.pooled)
    assert all(tensor.is_meta for tensor in tensors)
    assert (moved.captions, moved.index, moved.first, moved.of) == (["a"], 5, 1, 3)
    assert not batch.latents.is_meta
