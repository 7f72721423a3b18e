"""The WebUI host against stand-ins for `modules.*`; tests/webui runs it in a real one."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.errors import UserError
from lora_train.grid.plan import Grid
from lora_train.host import current
from lora_train.host.webui import WebUIHost, xyz


def grid(prompt: str, **more: Any) -> Grid:
    return Grid(**{"loras": ("cat-000001.safetensors", "cat-000002.safetensors"), "prompt": prompt, **more})


def cells(plan: xyz.Axes) -> list[str]:
    """The prompts as the WebUI's Prompt S/R makes them: X first, then Y, every occurrence."""
    by_name = [plan.prompt.replace(plan.names[0], name) for name in plan.names]
    return [prompt.replace(plan.weights[0], weight) for weight in plan.weights for prompt in by_name]


@pytest.mark.parametrize(
    ("names", "prompt", "weights"),
    [
        (["cat-000001", "cat-000002"], "a cat", (0.2, 1.0)),
        (["cat", "cat2"], "a cat", (0.2, 1.0)),
        (["lora", "o"], "a lora in a photo", (0.0, 0.5)),
        (["a-1", "a-2"], "1 girl, (hat:1), <lora:other:1>", (1.0, 0.5, -0.25)),
        (["a-0.2", "b"], "(hat:0.2) <lora:x:0.2>", (0.2, 1.0)),
        (["a, b", "c"], "x", (0.2, 1.0)),
    ],
)
def test_every_cell_has_its_lora_and_weight_and_the_users_words(
    names: list[str], prompt: str, weights: tuple[float, ...]
) -> None:
    plan = xyz.axes(grid(prompt, weights=weights), names)
    made = cells(plan)
    wanted = [(name, weight) for weight in weights for name in names]
    for text, (name, weight) in zip(made, wanted, strict=True):
        words, _, tag = text.rpartition(" <lora:")
        assert words == prompt
        assert tag.startswith(f"{name}:")
        assert float(tag[len(name) + 1 : -1]) == weight


def test_plain_texts_where_nothing_is_ambiguous() -> None:
    plan = xyz.axes(grid("a cat", weights=(0.2, 1.0)), ["cat-000001", "cat-000002"])
    assert (plan.names, plan.weights) == (["cat-000001", "cat-000002"], ["0.2", "1"])


def test_a_prompt_that_names_the_lora_is_refused() -> None:
    with pytest.raises(UserError, match="names this LoRA already"):
        xyz.axes(grid("<lora:cat:1>"), ["cat"])


def test_values_with_commas_and_quotes() -> None:
    assert xyz.values(["a, b", 'say "x"', "c"]) == '"a, b","say ""x""",c'


class Script:
    """The X/Y/Z plot: as A1111 calls it, with one parameter more, as forks have."""

    def __init__(self, modules: SimpleNamespace) -> None:
        self.modules = modules
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


class Lock:
    """As the WebUI's: it must not be taken twice."""

    held = False

    def __enter__(self) -> None:
        assert not self.held
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


@pytest.fixture
def webui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Just enough of `modules.*`."""
    state = SimpleNamespace(interrupted=False, stopping_generation=False, job_no=0)
    state.begin = lambda job: vars(state).update(job=job)
    state.end = lambda: vars(state).update(job="")
    state.interrupt = lambda: vars(state).update(interrupted=True)
    folders = SimpleNamespace(outdir_samples="", outdir_grids="", outdir_txt2img_samples="s", outdir_txt2img_grids="g")
    options = SimpleNamespace(**vars(folders), CLIP_stop_at_last_layers=2, data={})
    flags = SimpleNamespace(lora_dir=str(tmp_path), use_cpu=["all"])
    model = torch.nn.Linear(1, 1)
    info = SimpleNamespace(filename=str(tmp_path / "m.safetensors"), title="m [12]", sha256="12")
    made: dict[str, Any] = {
        "shared": SimpleNamespace(
            state=state, opts=options, cmd_opts=flags, sd_model=model, total_tqdm=SimpleNamespace(clear=int)
        ),
        "sd_models": SimpleNamespace(
            select_checkpoint=lambda: info,
            checkpoints_list={"m": info},
            model_data=SimpleNamespace(sd_model=model, loaded_sd_models=[model]),
        ),
        "call_queue": SimpleNamespace(queue_lock=Lock()),
        "devices": SimpleNamespace(device=torch.device("cpu")),
        "paths_internal": SimpleNamespace(models_path=str(tmp_path), data_path=str(tmp_path)),
        "errors": SimpleNamespace(exception_records=[{"exception": "NaN in the Unet"}]),
        "sd_samplers": SimpleNamespace(all_samplers_map={"Euler": 1}, all_samplers=[SimpleNamespace(name="Euler")]),
        "processing": SimpleNamespace(
            StableDiffusionProcessing=Processing, StableDiffusionProcessingTxt2Img=Processing
        ),
    }
    made["scripts"] = SimpleNamespace(scripts_txt2img=SimpleNamespace(selectable_scripts=[]))
    script = Script(SimpleNamespace(**made))
    made["scripts"].scripts_txt2img.selectable_scripts.append(script)
    package = types.ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        setattr(package, name, module)
    monkeypatch.setattr(xyz, "_LOOK_EVERY", 0.01)
    yield SimpleNamespace(**made, script=script)


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


def test_the_host_is_found(webui: SimpleNamespace, tmp_path: Path) -> None:
    host = current()
    assert isinstance(host, WebUIHost)
    chosen = host.checkpoint()
    assert chosen is not None
    assert (chosen.path, chosen.title, chosen.sha256, chosen.clip_skip) == (
        tmp_path / "m.safetensors",
        "m [12]",
        "12",
        2,
    )
    assert host.environment() == {"CUDA_VISIBLE_DEVICES": ""}
    assert host.lora_dir() == tmp_path
    assert host.restricted() is False


def test_outside_of_a_webui() -> None:
    with pytest.raises(UserError, match="no WebUI"):
        current()


def test_a_grid_by_the_plot(webui: SimpleNamespace) -> None:
    seen: list[tuple[int, int]] = []
    sheet = WebUIHost().draw(grid("a cat", weights=(0.2, 1.0), seed=5, clip_skip=3), lambda *cell: seen.append(cell))
    call = webui.script.seen
    assert call["x"] == (2, "0.2,1")
    assert call["y"] == (2, "cat-000001,cat-000002")
    assert (call["lone"], call["new"]) == (True, False)
    assert (call["p"].prompt, call["p"].seed) == ("a cat <lora:cat-000001:0.2>", 5)
    assert call["p"].override_settings == {"CLIP_stop_at_last_layers": 3}
    red = [[cell.tobytes()[0] for cell in row] for row in sheet.cells]
    assert red == [[1, 2], [3, 4]]
    assert (seen[0], seen[-1]) == ((0, 4), (4, 4))
    assert not webui.call_queue.queue_lock.held
    assert webui.shared.state.job == ""


def test_on_cell_ends_the_drawing(webui: SimpleNamespace) -> None:
    def wait_for_the_interruption() -> None:
        while not webui.shared.state.interrupted:
            pass

    def on_cell(done: int, total: int) -> None:
        if webui.script.seen:
            raise KeyError("enough")

    webui.script.during = wait_for_the_interruption
    with pytest.raises(KeyError, match="enough"):
        WebUIHost().draw(grid("a cat"), on_cell)
    assert not webui.call_queue.queue_lock.held


def test_failures_are_in_plain_words(webui: SimpleNamespace) -> None:
    def nothing(done: int, total: int) -> None:
        """Not interested."""

    with pytest.raises(UserError, match=r"no sampler 'Foo'\. Choose from Euler"):
        WebUIHost().draw(grid("a cat", sampler="Foo"), nothing)
    webui.script.failed = {2}
    with pytest.raises(UserError, match="NaN in the Unet"):
        WebUIHost().draw(grid("a cat"), nothing)
    webui.script.during = webui.shared.state.interrupt
    with pytest.raises(UserError, match="interrupted"):
        WebUIHost().draw(grid("a cat"), nothing)
    webui.scripts.scripts_txt2img.selectable_scripts.clear()
    with pytest.raises(UserError, match="no X/Y/Z plot"):
        WebUIHost().draw(grid("a cat"), nothing)


def test_the_model_leaves_the_gpu_and_comes_back(webui: SimpleNamespace) -> None:
    model = webui.shared.sd_model
    with WebUIHost().memory_for_training():
        assert not webui.call_queue.queue_lock.held  # on a CPU nothing is in the way
    webui.devices.device = torch.device("cuda")
    model.lowvram = True  # counts as being on the GPU
    moves: list[str] = []
    webui.sd_models.send_model_to_cpu = lambda m: moves.append("cpu")
    webui.sd_models.send_model_to_device = lambda m: moves.append("back")
    with contextlib.suppress(ZeroDivisionError), WebUIHost().memory_for_training():
        assert webui.call_queue.queue_lock.held
        assert moves == ["cpu"]
        raise ZeroDivisionError
    assert moves == ["cpu", "back"]
    assert not webui.call_queue.queue_lock.held


def test_refreshing_forgets_what_is_applied(webui: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    restored = []
    networks = SimpleNamespace(
        list_available_networks=lambda: restored.append("listed"),
        networks_in_memory={"cat": 1},
        network_restore_weights_from_backup=restored.append,
    )
    monkeypatch.setitem(sys.modules, "networks", networks)
    model = webui.shared.sd_model
    model.network_current_names = (("cat", 1, 1, None),)
    WebUIHost().refresh_loras()
    assert restored == ["listed", model]
    assert model.network_current_names == ()
    assert networks.networks_in_memory == {}
