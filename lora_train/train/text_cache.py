"""Captions to text states, once for each text: where no text encoder is trained they don't change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from random import Random
from typing import Any

import torch

from ..dataset import captions
from ..dataset.pictures import Dataset
from ..model.load import StableDiffusion
from ..model.text import TextStates, encode_prompts
from ..settings import TrainSettings

LIMIT = 2 * 2**30
"""Bytes that all texts of a run may take in memory."""
_RECENT = 256 * 2**20  # bytes on the device where texts are encoded as they come
_AT_ONCE = 16
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TextCache:
    """States of texts. complete: every text of the run is here, and the text encoder isn't needed any more.

    Otherwise texts are encoded when they are asked for, and the latest ones are kept.
    """

    def __init__(self, model: StableDiffusion, settings: TrainSettings, limit: int = _RECENT) -> None:
        self.complete = False
        self._model, self._settings, self._limit = model, settings, limit
        self._kept: OrderedDict[str, TextStates] = OrderedDict()
        self._bytes = 0

    def rows(self, texts: Sequence[str]) -> TextStates:
        """The states of texts, a row each."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        fresh = self.encode(missing) if missing else {}
        found = []
        for text in texts:
            if text in self._kept:
                self._kept.move_to_end(text)
            found.append(self._kept[text] if text in self._kept else fresh[text])
        self._keep(fresh)
        return TextStates.cat(found)

    def encode(self, texts: Sequence[str]) -> dict[str, TextStates]:
        """{text: its states [1, n, C]}, in the precision that the UNet takes them in."""
        s = self._settings
        with torch.no_grad(), self._autocast():
            states = encode_prompts(self._model, list(texts), s.clip_skip, s.max_token_length, s.weighted_captions)
        states = states.to(dtype=_DTYPES[s.mixed_precision])
        return {text: states.select([i]) for i, text in enumerate(texts)}

    def fill(self, texts: Sequence[str], progress: Callable[[int, int], None], warn: Callable[[str], None]) -> None:
        """Encode all texts of a run, unless they need more memory than the limit."""
        for start in range(0, len(texts), _AT_ONCE):
            for text, states in self.encode(texts[start : start + _AT_ONCE]).items():
                self._kept[text] = states.to("cpu")
            if start == 0 and (needed := len(texts) * _size(next(iter(self._kept.values())))) > LIMIT:
                self._kept.clear()
                warn(
                    f"the states of {len(texts)} captions would take {needed / 2**30:.1f} GiB, so captions are encoded "
                    "as they come"
                )
                return
            progress(min(start + _AT_ONCE, len(texts)), len(texts))
        self.complete = True

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _DTYPES[self._settings.mixed_precision]
        return nullcontext() if dtype is torch.float32 else torch.autocast(self._model.device.type, dtype=dtype)

    def _keep(self, fresh: dict[str, TextStates]) -> None:
        for text, states in fresh.items():
            self._kept[text] = states
            self._bytes += _size(states)
        while self._bytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size(oldest)


def cache_text(
    model: StableDiffusion,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
) -> TextCache | None:
    """The texts' states for a run: encoded now where all texts are known; None where a text encoder is trained.

    Call it once the weights are those of the run (base_weights merged). progress(done, total) counts texts.
    """
    if settings.trains_text_encoder or not settings.cache_text_encoder_outputs:
        return None
    cache = TextCache(model, settings)
    texts = texts_of(dataset)
    if texts is not None:
        cache.fill(texts, progress, warn)
    return cache


def texts_of(dataset: Dataset) -> list[str] | None:
    """Every text that captions can become, in the dataset's order; None where too much is left to chance."""
    texts: dict[str, None] = {}
    for concept in dataset.concepts:
        options = replace(concept.captions, dropout_rate=0.0, dropout_every_n_epochs=0)
        if options.vary:
            return None
        texts |= dict.fromkeys(captions.process(p.caption, options, Random(0)) for p in concept.pictures)
        if concept.captions.vary:
            texts[""] = None
    return list(texts)


def _size(states: TextStates) -> int:
    tensors = [states.states, *([] if states.pooled is None else [states.pooled])]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
