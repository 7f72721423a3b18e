"""The WebUI's captioners: deepbooru's tags and BLIP's sentences, with options of each call instead of its settings."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from ...dataset import images
from ...dataset.tagging import tags_text
from ...errors import UserError
from ..base import Captioner, OnCaption, Tagged, TagOptions
from .inside import flag, forge_memory, job, on_main_thread, optional, queue, shared
from .memory import refuse_while_lent

_TURN = 5.0
"""Seconds that drawing waits at most, plus one batch."""
_MEAN, _SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TOKENIZER = "bert-base-uncased"
_ASIDE = ".corrupted"
"""What Forge adds to the name of a file that it can't read."""
_Read = tuple[Path, "Image.Image | UserError"]


def captioners() -> list[Captioner]:
    """Those that this WebUI has: both in A1111, reForge and Forge, none in Classic and Neo."""
    found: list[Captioner] = []
    if optional("modules.deepbooru") is not None:
        found.append(Deepbooru())
    if optional("modules.interrogate") is not None:
        found.append(Blip())
    return found


class _Captioner(ABC):
    """What both have in common: pictures in batches, in turns with whatever else the WebUI does."""

    name, title, kind = "", "", ""
    _folder, _suffix, _download = "", "", ""

    def note(self) -> str:
        """What its first use will download."""
        return "" if self._files() else f"Its first use downloads its model to {self._place()}: {self._download}"

    def tag(self, pictures: Sequence[Path], options: TagOptions, on_done: OnCaption, stop: threading.Event) -> Tagged:
        """Caption `pictures`; the WebUI's settings and what it has in its memory stay as they are."""
        captions: dict[Path, str] = {}
        problems: list[UserError] = []
        left = iter(pictures)
        done = 0
        was_loaded = self._is_loaded()
        try:
            while done < len(pictures) and not stop.is_set():
                with self._turn(stop) as goes_on:
                    while goes_on() and (batch := [_read(path) for path in islice(left, options.batch_size)]):
                        made = self._describe(batch, options)
                        for path, outcome in zip([path for path, _ in batch], made, strict=True):
                            done += 1
                            if isinstance(outcome, UserError):
                                problems.append(outcome)
                            else:
                                captions[path] = outcome
                            on_done(done, len(pictures), path, captions.get(path, ""))
        finally:
            if not was_loaded and _forgets():
                self._drop()  # outside of the queue: a training may have it by now, for hours
        return Tagged(captions, tuple(problems), done < len(pictures))

    @contextmanager
    def _turn(self, stop: threading.Event) -> Iterator[Callable[[], bool]]:
        """The model in its place for a few seconds, while nothing else runs; yields whether to go on.

        The WebUI's own button for interrupting sets `stop`.
        """
        refuse_while_lent()
        with queue(), job(f"Train LoRA: {self.title}") as state:
            end = time.monotonic() + _TURN
            try:
                on_main_thread(self._load)
                yield lambda: not stop.is_set() and not state.interrupted and time.monotonic() < end
            finally:
                if state.interrupted:
                    stop.set()
                on_main_thread(self._put_away)

    def _describe(self, batch: list[_Read], options: TagOptions) -> list[str | UserError]:
        sound = [picture for _, picture in batch if isinstance(picture, Image.Image)]
        try:
            made = iter(on_main_thread(lambda: self._run(sound, options)) if sound else ())
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            what = f"the GPU's memory isn't enough for {len(sound)} pictures at a time"
            remedy = "Make it smaller" if len(sound) > 1 else "Close other programs that use the GPU"
            raise UserError(what, where="batch_size", remedy=remedy) from error
        return [next(made) if isinstance(picture, Image.Image) else picture for _, picture in batch]

    def _place(self) -> Path:
        from modules import paths_internal

        return Path(paths_internal.models_path) / self._folder

    def _files(self) -> list[Path]:
        """As the WebUI looks for them: in any depth."""
        return sorted(path for path in self._place().rglob(f"*{self._suffix}") if path.is_file())

    def _failed(self, error: BaseException) -> UserError:
        """Why a model can't be loaded, in words."""
        file = self._download.rpartition("/")[2]
        if isinstance(error, ImportError):
            remedy = "Start the WebUI once without --skip-prepare-environment, so that it installs all of its parts"
            return UserError(f"{self.title}'s code isn't there ({error})", where=self.title, remedy=remedy)
        replace = f"Replace it by {file} from {self._download}"
        if not self._files():
            if aside := sorted(self._place().rglob(f"*{self._suffix}{_ASIDE}")):
                what = f"{self.title}'s model is damaged; the WebUI has renamed it to {aside[0].name}"
                return UserError(what, where=str(aside[0]).removesuffix(_ASIDE), remedy=replace)
            what = f"{self.title}'s model isn't there and can't be downloaded"
            return UserError(what, where=self._place(), remedy=f"Put {file} there, from {self._download}")
        if _TOKENIZER in str(error):
            what = f"it asks Hugging Face for the vocabulary of {_TOKENIZER}, which can't be had"
            return UserError(what, where=self.title, remedy="Use it once with a connection; it is kept then")
        # The WebUI's own torch.load returns None for a file that is no checkpoint or that it doesn't trust.
        reason = "it is damaged or another" if isinstance(error, (TypeError, AttributeError)) else str(error)
        what = f"{self.title}'s model can't be loaded: {reason}"
        return UserError(what, where=self._files()[0], remedy=replace)

    @abstractmethod
    def _is_loaded(self) -> bool: ...

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _run(self, pictures: list[Image.Image], options: TagOptions) -> list[str]: ...

    @abstractmethod
    def _put_away(self) -> None: ...

    @abstractmethod
    def _drop(self) -> None: ...


class Deepbooru(_Captioner):
    """Tags of Danbooru's, each with a probability."""

    name, title, kind = "deepbooru", "deepbooru", "tags"
    _folder, _suffix = "torch_deepdanbooru", ".pt"
    _download = (
        "https://github.com/AUTOMATIC1111/TorchDeepDanbooru/releases/download/v1/model-resnet_custom_v3.pt"  # 614 MB
    )

    def _is_loaded(self) -> bool:
        from modules import deepbooru

        return deepbooru.model.model is not None and bool(deepbooru.model.model.tags)

    def _load(self) -> None:
        from modules import deepbooru

        if not self._is_loaded():
            deepbooru.model.model = None  # one that failed to load stays without tags, and would find nothing
        _make_room()
        try:
            deepbooru.model.start()
        except Exception as error:  # the WebUI hides why there is no file and what is wrong with one
            deepbooru.model.model = None
            raise self._failed(error) from error

    def _run(self, pictures: list[Image.Image], options: TagOptions) -> list[str]:
        import numpy as np
        import torch
        from modules import deepbooru, devices
        from modules.images import resize_image

        danbooru = deepbooru.model
        fitted = [resize_image(2, picture, 512, 512, "None") for picture in pictures]
        pixels = np.stack([np.asarray(picture.convert("RGB"), np.float32) for picture in fitted]) / 255
        device, dtype = getattr(danbooru, "load_device", devices.device), getattr(danbooru, "dtype", devices.dtype)
        with torch.no_grad(), devices.autocast():
            scores = danbooru.model(torch.from_numpy(pixels).to(device, dtype)).float().cpu().tolist()
        return [tags_text(danbooru.model.tags, row, options) for row in scores]

    def _put_away(self) -> None:
        from modules import deepbooru

        if deepbooru.model.model is not None:
            deepbooru.model.stop()

    def _drop(self) -> None:
        from modules import deepbooru

        deepbooru.model.model = None


class Blip(_Captioner):
    """A sentence for each picture."""

    name, title, kind = "blip", "BLIP", "sentence"
    _folder, _suffix = "BLIP", ".pth"
    _download = (
        "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/"  # 896 MB
        "model_base_caption_capfilt_large.pth"
    )

    def _is_loaded(self) -> bool:
        return shared().interrogator.blip_model is not None

    def _load(self) -> None:
        """The caption model alone; the WebUI itself would load CLIP too, for artists and styles."""
        from modules import devices, interrogate

        interrogator, memory = shared().interrogator, forge_memory()
        _make_room()
        try:
            if interrogator.blip_model is None:
                model = interrogator.load_blip_model()
                self._prepare(interrogator, model, getattr(interrogate, "ModelPatcher", None))
            if memory is not None:
                memory.load_models_gpu([interrogator.blip_patcher])
            else:
                interrogator.blip_model.to(devices.device_interrogate)
        except Exception as error:  # the same, and a tokenizer that is asked of the hub
            raise self._failed(error) from error

    def _prepare(self, interrogator: Any, model: Any, patcher: Any) -> None:
        """What the WebUI does with a model that has just been read."""
        if patcher is not None:
            devices = {"load_device": interrogator.load_device, "offload_device": interrogator.offload_device}
            model = model.to(device=interrogator.offload_device, dtype=interrogator.dtype)
            interrogator.blip_patcher = patcher(model, **devices)
        elif not flag("no_half") and not interrogator.running_on_cpu:
            model = model.half()
        interrogator.blip_model = model

    def _run(self, pictures: list[Image.Image], options: TagOptions) -> list[str]:
        import torch
        from modules import devices, interrogate

        interrogator = shared().interrogator
        model = interrogator.blip_model
        device = getattr(interrogator, "load_device", devices.device_interrogate)
        dtype = next(model.parameters()).dtype
        pixels = torch.stack([_normal(picture, interrogate.blip_image_eval_size) for picture in pictures])
        with torch.no_grad():
            made = _generate(model, pixels.to(device, dtype), options)
        return [" ".join(text.split()) for text in made]

    def _put_away(self) -> None:
        shared().interrogator.unload()

    def _drop(self) -> None:
        shared().interrogator.blip_model = None


def _generate(model: Any, pixels: Any, options: TagOptions) -> list[str]:
    """BLIP's own `generate`; its steps apart where that fails.

    It repeats a picture for each beam, and so does a transformers newer than it: more than one beam ends in an error.
    """
    import torch

    lengths = {"num_beams": options.beams, "min_length": options.min_length, "max_length": options.max_length}
    try:
        return model.generate(pixels, sample=False, **lengths)
    except RuntimeError as error:
        if options.beams == 1 or "must match" not in str(error):
            raise
    seen = model.visual_encoder(pixels)
    words = model.tokenizer([model.prompt] * len(pixels), return_tensors="pt").input_ids.to(pixels.device)
    words[:, 0] = model.tokenizer.bos_token_id
    made = model.text_decoder.generate(
        input_ids=words[:, :-1],
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=pixels.device),
        eos_token_id=model.tokenizer.sep_token_id,
        pad_token_id=model.tokenizer.pad_token_id,
        **lengths,
    )
    return [model.tokenizer.decode(row, skip_special_tokens=True)[len(model.prompt) :] for row in made]


def _normal(picture: Image.Image, size: int) -> Any:
    """[3, size, size] as BLIP was trained; the same numbers as torchvision's Resize, ToTensor and Normalize."""
    import numpy as np
    import torch

    shrunk = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = (np.asarray(shrunk, np.float32) / 255 - np.float32(_MEAN)) / np.float32(_SPREAD)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _make_room() -> None:
    """With --medvram and --lowvram A1111 has a part of its model on the GPU; it brings it back itself."""
    lowvram = optional("modules.lowvram")
    if lowvram is not None:
        lowvram.send_everything_to_cpu()


def _forgets() -> bool:
    """Whether a model that we brought in is ours to drop: the Forge family's memory management keeps its own list."""
    return forge_memory() is None and not getattr(shared().opts, "interrogate_keep_models_in_memory", False)


def _read(path: Path) -> _Read:
    try:
        return path, images.read(path)
    except UserError as error:
        return path, error
