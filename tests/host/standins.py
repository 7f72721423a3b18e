"""Stand-ins for a WebUI's `modules.*`: A1111 and Forge, as far as the host uses them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

TAGS = ["1girl", "red_hair", "smile_(person)", "rating:safe"]


class Script:
    """The X/Y/Z plot: as A1111 calls it, with one parameter more, as forks have."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.current_axis_options = [SimpleNamespace(label=label) for label in ("Nothing", "Seed", "Prompt S/R")]
        self.during: Callable[[], None] = lambda: None
        self.failed: set[int] = set()

    def title(self) -> str:
        return "X/Y/Z plot"

    def run(
        self, p: Any, x_type: int, x_values: str, y_type: int, y_values: str, include_lone_images: bool, new: bool
    ) -> Any:
        self.seen = {"p": p, "x": (x_type, x_values), "y": (y_type, y_values), "lone": include_lone_images, "new": new}
        self.during()
        count = len(x_values.split(",")) * len(y_values.split(","))
        pictures = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(count + 1)]
        texts = [None if number in self.failed else "text" for number in range(count + 1)]
        return SimpleNamespace(images=pictures, infotexts=texts)


class ScriptBase:
    """modules.scripts.Script."""


class ScriptRunner:
    """modules.scripts.ScriptRunner, as far as a plot's picture needs it: what a script raises is lost."""

    def __init__(self) -> None:
        self.alwayson_scripts: list[Any] = []

    def postprocess(self, p: Any, processed: Any) -> None:
        for script in self.alwayson_scripts:
            with contextlib.suppress(Exception):
                script.postprocess(p, processed, *p.script_args[script.args_from : script.args_to])


class Lock:
    """As the WebUI's: it must not be taken twice."""

    held = False

    def __enter__(self) -> None:
        assert not self.held
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


class State(SimpleNamespace):
    """What the WebUI is doing."""

    def __init__(self) -> None:
        super().__init__(interrupted=False, stopping_generation=False, job_no=0, job="", textinfo=None)

    def begin(self, job: str) -> None:
        self.job, self.interrupted = job, False

    def end(self) -> None:
        self.job = ""

    def interrupt(self) -> None:
        self.interrupted = True


@dataclasses.dataclass
class Processing:
    """The WebUI's txt2img job, without a scheduler, as in older ones."""

    sd_model: object = None
    outpath_samples: str = ""
    outpath_grids: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = dataclasses.field(default_factory=list)
    seed: int = -1
    sampler_name: str = ""
    steps: int = 0
    cfg_scale: float = 0
    width: int = 0
    height: int = 0
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    override_settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def close(self) -> None:
        """As the WebUI's."""


def process_images(p: Processing) -> Any:
    """A picture as large as was asked for, of a colour for each prompt."""
    red = sum(p.prompt.encode()) % 256
    return SimpleNamespace(images=[Image.new("RGB", (p.width, p.height), (red, 0, 0))], infotexts=[p.prompt])


class Net(torch.nn.Module):
    """deepbooru's net in small: the first tag's score is the red of the picture, the second's the green, …"""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.batches: list[int] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[1:] == (512, 512, 3)
        self.batches.append(len(pixels))
        colour = pixels.mean((1, 2))
        return torch.cat([colour, torch.ones(len(pixels), 1)], 1)


class Danbooru:
    """modules.deepbooru.model of A1111."""

    def __init__(self, folder: Path) -> None:
        self.model: Net | None = None
        self.folder, self.calls = folder, list[str]()

    def load(self) -> None:
        if self.model is not None:
            return
        files = sorted(self.folder.glob("*.pt"))  # the WebUI's list is empty when the download failed
        file = files[0]
        self.model = Net()
        self.calls.append("load")
        found: Any = None if file.read_bytes() == b"junk" else {"tags": TAGS}  # as modules.safe's torch.load
        self.model.tags = found.get("tags", [])

    def start(self) -> None:
        self.load()
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


class ForgeDanbooru(Danbooru):
    """The one of Forge and reForge: their memory management moves it."""

    load_device, dtype, patcher = torch.device("cpu"), torch.float32, "patcher"


class BlipNet(torch.nn.Module):
    """BLIP: says what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def generate(self, pixels: torch.Tensor, **options: Any) -> list[str]:
        assert pixels.shape[1:] == (3, 384, 384)
        assert options.pop("sample") is False
        return [f"a picture, {options}  " for _ in pixels]


class Interrogator:
    """modules.interrogate.InterrogateModels of A1111."""

    running_on_cpu = True

    def __init__(self, folder: Path) -> None:
        self.blip_model: Any = None
        self.clip_model: Any = None
        self.folder, self.calls = folder, list[str]()

    def load_blip_model(self) -> BlipNet:
        [_] = self.folder.glob("*.pth")
        return BlipNet()

    def unload(self) -> None:
        self.calls.append("unload")


class Scaler:
    """An upscaler of factor 4, whose results are rounded down as the WebUI does it."""

    def __init__(self, records: list[Any]) -> None:
        self.records, self.factors = records, list[float]()
        self.fails = self.raises = False
        self._cached_model: object = object()

    def load_model(self, path: str) -> None:
        """As the WebUI's."""

    def upscale(self, picture: Image.Image, factor: float, path: str) -> Image.Image:
        self.factors.append(factor)
        if self.raises:
            raise RuntimeError("CUDA out of memory")
        if self.fails:
            self.records.append({"exception": "no such file"})
            return picture
        size = (int(picture.width * factor // 8 * 8), int(picture.height * factor // 8 * 8))
        return picture.resize(size, Image.Resampling.NEAREST)


class Model(torch.nn.Linear):
    """The loaded checkpoint."""

    lowvram = False

    def __init__(self) -> None:
        super().__init__(3, 3)


def install(patch: pytest.MonkeyPatch, folder: Path) -> SimpleNamespace:
    """A1111 in small, on a CPU; the attributes are its modules."""
    folders = SimpleNamespace(outdir_samples="", outdir_grids="", outdir_txt2img_samples="s", outdir_txt2img_grids="g")
    options = SimpleNamespace(**vars(folders), CLIP_stop_at_last_layers=2, data={}, localization="None")
    flags = SimpleNamespace(lora_dir=str(folder), use_cpu=["all"], no_half=True)
    model, records = Model(), [{"exception": "NaN in the Unet"}]
    checkpoint = folder / "m.safetensors"
    checkpoint.touch()
    info = SimpleNamespace(filename=str(checkpoint), title="m [12]", sha256="12")
    scaler = Scaler(records)
    made: dict[str, Any] = {
        "shared": SimpleNamespace(
            state=State(),
            opts=options,
            cmd_opts=flags,
            sd_model=model,
            total_tqdm=SimpleNamespace(clear=int),
            sd_upscalers=[
                SimpleNamespace(name=name, data_path=path, scaler=scaler)
                for name, path in (("None", None), ("Lanczos", None), ("4x", "4x.pth"))
            ],
            interrogator=Interrogator(folder / "BLIP"),
        ),
        "sd_models": SimpleNamespace(
            select_checkpoint=lambda: info,
            checkpoints_list={"m": info},
            model_data=SimpleNamespace(sd_model=model, loaded_sd_models=[model]),
        ),
        "sd_vae": SimpleNamespace(resolve_vae=lambda _: SimpleNamespace(tuple=lambda: (None, None))),
        "call_queue": SimpleNamespace(queue_lock=Lock()),
        "devices": SimpleNamespace(
            device=torch.device("cpu"),
            cpu=torch.device("cpu"),
            dtype=torch.float32,
            device_interrogate=torch.device("cpu"),
            autocast=torch.no_grad,
            torch_gc=int,
        ),
        "paths_internal": SimpleNamespace(models_path=str(folder), data_path=str(folder)),
        "errors": SimpleNamespace(exception_records=records),
        "sd_samplers": SimpleNamespace(all_samplers_map={"Euler": 1}, all_samplers=[SimpleNamespace(name="Euler")]),
        "processing": SimpleNamespace(
            StableDiffusionProcessing=Processing,
            StableDiffusionProcessingTxt2Img=Processing,
            process_images=process_images,
        ),
        "images": SimpleNamespace(resize_image=lambda mode, picture, width, height, _: picture.resize((width, height))),
        "deepbooru": SimpleNamespace(model=Danbooru(folder / "torch_deepdanbooru")),
        "interrogate": SimpleNamespace(blip_image_eval_size=384),
        "scripts": SimpleNamespace(
            scripts_txt2img=SimpleNamespace(selectable_scripts=[Script()]),
            Script=ScriptBase,
            ScriptRunner=ScriptRunner,
            AlwaysVisible=object(),
        ),
    }
    for part in ("torch_deepdanbooru/any.pt", "BLIP/any.pth"):
        (folder / part).parent.mkdir()
        (folder / part).touch()
    script = made["scripts"].scripts_txt2img.selectable_scripts[0]
    packages(patch, "modules", made)
    return SimpleNamespace(**made, script=script, scaler=scaler, folder=folder)


def packages(patch: pytest.MonkeyPatch, name: str, parts: dict[str, Any]) -> None:
    """A package with these modules."""
    package = types.ModuleType(name)
    patch.setitem(sys.modules, name, package)
    for part, module in parts.items():
        patch.setitem(sys.modules, f"{name}.{part}", module)
        setattr(package, part, module)


def become_forge(patch: pytest.MonkeyPatch, webui: SimpleNamespace) -> SimpleNamespace:
    """Forge: a main thread that swallows what is raised, and a memory management of its own."""
    memory = SimpleNamespace(calls=[])
    memory.unload_all_models = lambda: memory.calls.append("unload")
    memory.soft_empty_cache = lambda force: memory.calls.append("empty")
    memory.load_models_gpu = lambda patchers: memory.calls.append(("load", *patchers))

    def run_and_wait_result(action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action, name="forge main thread")
        thread.start()
        thread.join()

    webui.args = SimpleNamespace(args=SimpleNamespace(always_cpu=False))
    packages(patch, "backend", {"memory_management": memory, "args": webui.args})
    parts = {"main_thread": SimpleNamespace(run_and_wait_result=run_and_wait_result)}
    packages(patch, "modules_forge", {**parts, "forge_version": SimpleNamespace(version="2.0.1v1.10.1")})
    webui.deepbooru.model = ForgeDanbooru(webui.folder / "torch_deepdanbooru")
    webui.interrogate.ModelPatcher = lambda model, **devices: ("patcher", type(model).__name__)
    for name in ("load_device", "offload_device"):
        setattr(webui.shared.interrogator, name, torch.device("cpu"))
    webui.shared.interrogator.dtype = torch.float32
    webui.shared.interrogator.blip_patcher = None
    webui.shared.opts.forge_additional_modules = []
    webui.sd_models.model_data.sd_model = object()  # FakeInitialModel
    webui.memory = memory
    return webui


def become_classic(patch: pytest.MonkeyPatch, webui: SimpleNamespace) -> SimpleNamespace:
    """Forge Classic: no captioners, and the memory management where reForge has it too."""
    become_forge(patch, webui)
    for name in ("backend", "backend.memory_management", "backend.args"):
        patch.setitem(sys.modules, name, None)
    packages(patch, "ldm_patched", {})
    packages(patch, "ldm_patched.modules", {"model_management": webui.memory, "args_parser": webui.args})
    for name in ("deepbooru", "interrogate"):
        patch.setitem(sys.modules, f"modules.{name}", None)  # importing it raises ImportError
    del webui.shared.interrogator
    return webui
