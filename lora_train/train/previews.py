"""Preview pictures while a run goes on, from sd-scripts' prompt files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError, raise_all
from ..files import read_table, replace_file
from ..model.load import StableDiffusion
from ..model.sample import KOHYA_SAMPLERS, SAMPLERS, sample
from ..network.lora import LoraNetwork
from ..settings import TrainSettings
from .validation import unchanged_randomness
from .watch import Watch

_SAMPLERS = {
    **{name.lower(): name for name in SAMPLERS},
    **KOHYA_SAMPLERS,
    "pndm": "DDIM",
    **dict.fromkeys(("lms", "k_lms", "heun", "dpm_2", "k_dpm_2"), "Euler"),
    **dict.fromkeys(("dpm_2_a", "k_dpm_2_a"), "Euler a"),
    **dict.fromkeys(("dpmsolver", "dpmsingle"), "DPM++ 2M"),
}
"""sd-scripts' names and the WebUI's; for a sampler that isn't here, the nearest that is, as the picture's text says."""

_OPTIONS = {"n": "negative_prompt", "w": "width", "h": "height", "d": "seed", "l": "scale", "s": "sample_steps"}
_OPTIONS["ss"] = "sample_sampler"
_OF_OTHER_MODELS = {"g", "cn", "ctr", "rcfg", "fs"}
_KEYS_OF_OTHER_MODELS = {"guidance_scale", "controlnet_image", "cfg_trunc_ratio", "renorm_cfg", "flow_shift", "enum"}
_LIMITS: dict[str, tuple[type, float, float]] = {
    "width": (int, 64, 4096),
    "height": (int, 64, 4096),
    "seed": (int, -1, 2**63 - 1),
    "scale": (float, 0, 100),
    "sample_steps": (int, 1, 1000),
}
_MOST = 100
_FILES = (".txt", ".toml", ".json")


@dataclass(frozen=True)
class Prompt:
    """One preview. Sizes in pixels, multiples of 8; sampler: the WebUI's name; seed None: the run's."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    scale: float
    sampler: str
    seed: int | None


def read_prompts(settings: TrainSettings) -> list[Prompt]:
    """The prompts that sample_prompts names: a .txt, .toml or .json file, or the text itself, a prompt a line.

    What a prompt leaves out is the run's resolution, 30 steps, scale 7.5 and sample_sampler. Raises all errors
    together, each with its file and line.
    """
    given = settings.sample_prompts.strip()
    if not given:
        return []
    errors: list[UserError] = []
    prompts = []
    for where, fields in _entries(given, errors):
        try:
            prompts.append(_prompt(fields, settings))
        except _Wrong as wrong:
            errors += [UserError(what, where=where, remedy=remedy) for what, remedy in wrong.problems]
    if not prompts and not errors:
        errors.append(UserError("there is no prompt in it", where="sample_prompts", remedy="Write a prompt a line"))
    if len(prompts) > _MOST:
        errors.append(
            UserError(f"{len(prompts)} prompts are too many", where="sample_prompts", remedy=f"Keep at most {_MOST}")
        )
    raise_all(errors)
    return prompts


class Previews:
    """Draws the prompts into output_dir/sample. Raises UserError at once for prompts that can't be drawn, never later:
    what fails while drawing is told to warn(text). watch is shown the pictures.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: StableDiffusion,
        network: LoraNetwork,
        *,
        watch: Watch | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.settings, self.model, self.network, self.watch, self.warn = settings, model, network, watch, warn
        self.prompts = read_prompts(settings)
        self.folder = Path(settings.output_dir) / "sample"
        self._warned: set[str] = set()

    def due(self, epoch: int | None, step: int) -> bool:
        """Whether to draw after `step` steps: at the end of `epoch`, or within one (None). As in sd-scripts previews by
        epoch leave those by step out, and step 0 is sample_at_first's.
        """
        s = self.settings
        if not self.prompts:
            return False
        if step == 0:
            return s.sample_at_first
        if s.sample_every_n_epochs:
            return epoch is not None and epoch % s.sample_every_n_epochs == 0
        return bool(s.sample_every_n_steps) and epoch is None and step % (s.sample_every_n_steps or 1) == 0

    def draw(self, epoch: int | None, step: int) -> list[Path]:
        """Draw all prompts and return the files. epoch: the one that has ended; None or 0 within one. Never raises."""
        files, images = [], []
        stamp = time.strftime("%Y%m%d%H%M%S", time.localtime())
        number = f"e{epoch or 0:06d}" if epoch or not step else f"{step:06d}"
        with self._surviving("previews"), unchanged_randomness(), self._ready():
            for index, prompt in enumerate(self.prompts):
                with self._surviving(f"preview {index + 1}"):
                    images.append(self._picture(prompt))
                    seed = "" if prompt.seed is None else f"_{prompt.seed}"
                    name = f"{self.settings.output_name}_{number}_{index:02d}_{stamp}{seed}.png"
                    files.append(self._save(self.folder / name, images[-1], prompt))
        if self.watch and images:
            self.watch.previews(images, step)
        return files

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """What fails inside becomes a warning, the same one once."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a preview is never worth a run
            text = f"{what} could not be drawn: {error}"
            if text not in self._warned:
                self._warned.add(text)
                self.warn(text)

    def _picture(self, prompt: Prompt) -> Image.Image:
        more: dict[str, Any] = {"prediction_type": "v_prediction"} if self.settings.v_parameterization else {}
        return sample(
            self.model,
            prompt.prompt,
            prompt.negative_prompt,
            seed=self._seed(prompt),
            steps=prompt.steps,
            cfg_scale=prompt.scale,
            sampler=prompt.sampler,
            width=prompt.width,
            height=prompt.height,
            clip_skip=self.settings.clip_skip,
            max_token_length=self.settings.max_token_length,
            **more,
        )

    def _seed(self, prompt: Prompt) -> int:
        """The run's where none is given, so that epochs can be compared."""
        return self.settings.seed if prompt.seed is None else prompt.seed

    def _save(self, path: Path, image: Image.Image, prompt: Prompt) -> Path:
        """A PNG with the parameters as the WebUI writes and reads them."""
        values = {
            "Steps": prompt.steps,
            "Sampler": prompt.sampler,
            "CFG scale": f"{prompt.scale:g}",
            "Seed": self._seed(prompt),
            "Size": f"{prompt.width}x{prompt.height}",
            "Model": self.model.path.stem,
            **({"Clip skip": self.settings.clip_skip} if (self.settings.clip_skip or 1) > 1 else {}),
        }
        lines = [prompt.prompt]
        if prompt.negative_prompt:
            lines.append(f"Negative prompt: {prompt.negative_prompt}")
        lines.append(", ".join(f"{name}: {value}" for name, value in values.items()))
        info = PngInfo()
        info.add_text("parameters", "\n".join(lines))
        with replace_file(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=info)
        return path

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """The VAE beside the UNet, no dropout, the training's precision; afterwards as before."""
        vae, device = self.model.vae, self.model.device
        home = next(vae.parameters()).device
        vae.to(device)
        self.network.train(False)
        try:
            with self._autocast(device):
                yield
        finally:
            self.network.train(True)
            vae.to(home)
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Adapters are float32 beside a model in half precision."""
        kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
        kind = kinds.get(self.settings.mixed_precision)
        return torch.autocast(device.type, dtype=kind) if kind else nullcontext()


# Reading


class _Wrong(Exception):
    """Problems of one prompt: (what, remedy) each."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems


def _entries(given: str, errors: list[UserError]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, fields) of each prompt, with the names that sd-scripts' .toml and .json files use."""
    path = Path(given)
    if "\n" in given or path.suffix.lower() not in _FILES:
        yield from _lines("sample_prompts", given)
        return
    path = path.expanduser()
    try:
        if path.suffix.lower() == ".txt":
            yield from _lines(str(path), path.read_text(encoding="utf-8-sig"))
        else:
            yield from _tables(path, read_table(path, "Check sample_prompts"), errors)
    except UserError as error:
        errors.append(error)
    except FileNotFoundError:
        errors.append(UserError("there is no such file", where=path, remedy="Check sample_prompts"))
    except (OSError, UnicodeDecodeError) as error:
        errors.append(UserError(f"the file can't be read as text ({error})", where=path, remedy="Save it as UTF-8"))


def _lines(where: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A prompt a line; lines that begin with # are comments."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield f"{where}:{number}", _options(line.strip())


def _options(line: str) -> dict[str, Any]:
    """The fields of `prompt --n negative --w 512 …`; an option that isn't known is kept under its own name."""
    prompt, *options = re.split(r"(?:^|\s)--(?=[A-Za-z])", line)
    fields: dict[str, Any] = {"prompt": prompt.strip()}
    for option in options:
        name, _, value = option.strip().partition(" ")
        if name.lower() not in _OF_OTHER_MODELS:
            fields[_OPTIONS.get(name.lower(), f"--{name}")] = value.strip()
    return fields


def _tables(path: Path, data: Any, errors: list[UserError]) -> Iterator[tuple[str, dict[str, Any]]]:
    """TOML: [prompt] with what all share and [[prompt.subset]]; JSON: a list of tables or of lines."""
    if isinstance(data, dict) and isinstance(shared := data.get("prompt"), dict):
        subsets = shared.get("subset", [{}])
        shared = {key: value for key, value in shared.items() if key != "subset"}
        data = [{**shared, **subset} if isinstance(subset, dict) else subset for subset in subsets]
    if not isinstance(data, list):
        remedy = "Write [prompt] and [[prompt.subset]]" if path.suffix.lower() == ".toml" else "Write a list of prompts"
        errors.append(UserError("there are no prompts in it", where=path, remedy=remedy))
        return
    for number, entry in enumerate(data, 1):
        where = f"{path}: prompt {number}"
        if isinstance(entry, str):
            yield where, _options(entry)
        elif isinstance(entry, dict):
            yield where, {key: value for key, value in entry.items() if key not in _KEYS_OF_OTHER_MODELS}
        else:
            errors.append(UserError(f"{entry!r} is not a prompt", where=where, remedy="Write a table or a line"))


def _prompt(fields: dict[str, Any], settings: TrainSettings) -> Prompt:
    """Raises _Wrong with every problem of the fields."""
    problems: list[tuple[str, str]] = []
    texts = {name: fields.get(name, "") for name in ("prompt", "negative_prompt")}
    for name, text in texts.items():
        if not isinstance(text, str):
            problems.append((f"{name} {text!r} is not text", "Put it in quotes"))
    numbers = {name: _number(name, fields[name], problems) for name in _LIMITS if name in fields}
    wanted = fields.get("sample_sampler", settings.sample_sampler)
    sampler = _SAMPLERS.get(str(wanted).lower())
    if sampler is None:
        problems.append((f"{wanted!r} is not a sampler", "Choose ddim, euler, euler_a or dpmsolver++"))
    known = {"prompt", "negative_prompt", "sample_sampler", *_LIMITS}
    remedy = "Use --n --w --h --d --l --s --ss"
    problems += [(f"{name} is not an option of a prompt", remedy) for name in fields if name not in known]
    if problems:
        raise _Wrong(problems)
    width, height = (
        int(numbers.get(name, side) or side) // 8 * 8
        for name, side in zip(("width", "height"), settings.resolution, strict=True)
    )
    seed = numbers.get("seed")
    return Prompt(
        prompt=texts["prompt"],
        negative_prompt=texts["negative_prompt"],
        width=width,
        height=height,
        steps=int(numbers.get("sample_steps") or 30),
        scale=7.5 if (scale := numbers.get("scale")) is None else scale,
        sampler=sampler or "",
        seed=None if seed is None or seed < 0 else int(seed),
    )


def _number(name: str, value: Any, problems: list[tuple[str, str]]) -> float | None:
    """`value` as a number within its limits; None, and a problem noted, where it isn't one."""
    kind, low, high = _LIMITS[name]
    what = "a whole number" if kind is int else "a number"
    try:
        number = kind(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float) or (kind is int and number != int(number)):
            raise ValueError
        if low <= number <= high:
            return number
        problems.append((f"{name} {value} is out of range", f"Give a value from {low:g} to {high:g}"))
    except (ValueError, OverflowError):
        problems.append((f"{name} {value!r} is not {what}", f"Give a value from {low:g} to {high:g}"))
    return None
