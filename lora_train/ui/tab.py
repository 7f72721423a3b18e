"""The tab: collects what the fields hold and hands it on. What is going on is shown by javascript/train_lora.js."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from .. import settings as settings_module
from ..errors import UserError
from ..jobs.manager import Manager
from ..paths import ASSETS, DEMO_PICTURES
from ..settings.presets import PRESETS, preset
from . import fields, texts
from .compat import QUIET, unsaved
from .installer import INSTALLER
from .labels import PICTURES, PREFIX, TRAINING, groups

TITLE = "Train LoRA"
AS_IT_IS = "None: the fields as they are"


@dataclass
class Form:
    """The components by name: settings, and the grid's."""

    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> list[Any]:
        """All components, in the order in which `read` expects their values."""
        return [*self.settings.values(), *self.grid.values()]

    def read(self, held: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """(settings, grid) from the components' values."""
        count = len(self.settings)
        return fields.values_of(list(self.settings), held[:count]), fields.grid_values(held[count:])


def build(manager: Manager) -> gr.Blocks:
    """The whole tab."""
    INSTALLER.check()
    form = Form()
    with gr.Blocks(analytics_enabled=False, title=TITLE) as blocks, gr.Column(elem_id="train_lora"):
        _header(manager)
        with gr.Row(elem_id=f"{PREFIX}columns"):
            with gr.Column(scale=5, min_width=340, elem_id=f"{PREFIX}form"):
                demo = _pictures(form)
                recipe = _training(form)
                _grid(form)
                _more(form)
            with gr.Column(scale=6, min_width=340, elem_id=f"{PREFIX}side"):
                _side(manager, form)
        _fill_demo(demo, form)
        _fill_recipe(recipe, form)
    return blocks


def _header(manager: Manager) -> None:
    """Which checkpoint is trained on, and what is missing before anything can be."""
    choose = getattr(manager.host, "choose", None)
    if choose is None:
        gr.HTML('<div id="train_lora_checkpoint"></div>')
    else:
        _choice(manager, choose)
    with gr.Column(elem_id=f"{PREFIX}packages"):
        gr.HTML('<div id="train_lora_packages_text"></div>')
        install = unsaved(gr.Button("Install what training needs", variant="primary", elem_id=f"{PREFIX}install"))
        refusal = gr.HTML("")
        install.click(lambda: _install(manager), [], [refusal], **QUIET)


def _choice(manager: Manager, choose: Any) -> None:
    """Without a WebUI, the checkpoint is chosen here."""
    current = manager.host.checkpoint()
    choices = [(checkpoint.title, str(checkpoint.path)) for checkpoint in manager.host.checkpoints()]
    box = gr.Dropdown(
        choices=choices,
        value=str(current.path) if current else None,
        label="Checkpoint",
        info="Trained on, and drawn with. Stable Diffusion 1.5, 2 or XL, .safetensors or .ckpt",
        elem_id=f"{PREFIX}checkpoint_choice",
    )
    box.change(lambda path: choose(path) if path else None, [box], [], **QUIET)


def _install(manager: Manager) -> str:
    if getattr(manager.host, "restricted", lambda: False)():
        remedy = "Open this WebUI on its own machine without --listen, or add --enable-insecure-extension-access"
        return texts.errors(UserError("this WebUI is open to others, so nothing is installed", remedy=remedy))
    INSTALLER.install()
    return ""


def _pictures(form: Form) -> Any:
    """The set. Returns the button that fills in the demo."""
    gr.Markdown("### Pictures")
    _settings(form, PICTURES)
    with gr.Row():
        return unsaved(
            gr.Button("Fill in the demo", variant="secondary", elem_id=f"{PREFIX}demo", visible=DEMO_PICTURES.is_dir())
        )


def _training(form: Form) -> Any:
    """The fields that people change. Returns the choice of a recipe."""
    gr.Markdown("### Training")
    choices = [(AS_IT_IS, ""), *((preset.title_en, preset.name) for preset in PRESETS)]
    info = "Fills in the fields as a tutorial has them"
    recipe = unsaved(gr.Dropdown(choices=choices, value="", label="Recipe", info=info, elem_id=f"{PREFIX}recipe"))
    for names in TRAINING:
        with gr.Row():
            _settings(form, names)
    return recipe


def _grid(form: Form) -> None:
    gr.Markdown("### Grid: which epoch, at which weight")
    _grid_fields(form, ("enabled", "prompt", "weights"))
    with gr.Accordion("More about the grid", open=False, elem_id=f"{PREFIX}grid_more"):
        _grid_fields(form, ("negative_prompt",))
        for names in (("seed", "steps", "cfg_scale"), ("sampler", "width", "height")):
            with gr.Row():
                _grid_fields(form, names)
    form.grid = {name: form.grid[name] for name in fields.GRID}


def _more(form: Form) -> None:
    """Every setting that has no place above."""
    left = [name for name in fields.rows() if name not in form.settings]
    with gr.Accordion("All other settings", open=False, elem_id=f"{PREFIX}more"):
        for title, names in groups(left).items():
            with gr.Accordion(title, open=False, elem_id=f"{PREFIX}group_{title.split()[0].lower()}"):
                for first in range(0, len(names), 2):
                    with gr.Row():
                        _settings(form, names[first : first + 2])


def _settings(form: Form, names: Sequence[str]) -> None:
    rows = fields.rows()
    for name in names:
        form.settings[name] = fields.setting(rows[name])


def _grid_fields(form: Form, names: Sequence[str]) -> None:
    for name in names:
        form.grid[name] = fields.grid_field(name)


def _side(manager: Manager, form: Form) -> None:
    """Sum, errors, Start and Stop, and the live view."""
    total = gr.HTML(texts.arithmetic({}), elem_id=f"{PREFIX}arithmetic")
    problems = gr.HTML("", elem_id=f"{PREFIX}errors")
    with gr.Row(elem_id=f"{PREFIX}buttons"):
        start = unsaved(gr.Button("Start training", variant="primary", elem_id=f"{PREFIX}start"))
        stop = unsaved(gr.Button("Stop", variant="stop", elem_id=f"{PREFIX}stop"))
    gr.HTML('<div id="train_lora_live"></div>')
    start.click(lambda *held: _start(manager, form, held), form.inputs(), [problems], **QUIET)
    stop.click(manager.stop, [], [], **QUIET)
    sources = [form.settings[name] for name in texts.SUM]
    for source in sources:
        # Answers may overtake each other, so each is followed by one for what the fields hold by then.
        changed = source.change(_sum, sources, [total], **QUIET)
        changed.then(_sum, sources, [total], **QUIET)
    if not hasattr(manager.host, "choose"):
        _demo_checkpoint(manager)


def _sum(*held: Any) -> str:
    return texts.arithmetic(fields.values_of(texts.SUM, held))


def _start(manager: Manager, form: Form, held: Sequence[Any]) -> str:
    """Start; the problems as HTML, or nothing."""
    try:
        manager.start(*form.read(held))
        return ""
    except UserError as error:
        return texts.errors(error)
    except Exception as error:  # noqa: BLE001 (the page's edge: a bug of ours is told as one, never as an empty page)
        return texts.errors(UserError(f"unexpected: {type(error).__name__}: {error}", remedy="Please report this"))


def _demo_checkpoint(manager: Manager) -> None:
    """In a WebUI, the demo needs its checkpoint among the WebUI's own."""
    with gr.Accordion("No checkpoint at hand?", open=False, elem_id=f"{PREFIX}demo_checkpoint"):
        gr.Markdown(
            "The demo checkpoint is a very small Stable Diffusion 1.5 model that draws 64 × 64 pictures. "
            "It shows the whole way, from pictures to the grid, in minutes and without a GPU."
        )
        button = unsaved(
            gr.Button("Put the demo checkpoint into the model folder", elem_id=f"{PREFIX}put_demo_checkpoint")
        )
        answer = gr.HTML("")
        button.click(lambda: _put_demo_checkpoint(manager), [], [answer], **QUIET)


def _put_demo_checkpoint(manager: Manager) -> str:
    try:
        from ..model import mini

        known = manager.host.checkpoints()
        folder = known[0].path.parent if known else manager.host.lora_dir().parent / "Stable-diffusion"
        placed = mini.install(folder)
    except UserError as error:
        return texts.errors(error)
    remedy = "Press the reload button beside the checkpoint at the top of the page, then choose it."
    return texts.note("ok", f"The demo checkpoint is there: {placed}", [remedy])


def _fill_demo(button: Any, form: Form) -> None:
    """One click for a first training: the demo's pictures and values."""
    names = [name for name in form.settings if name not in ("pretrained_model_name_or_path", "output_dir")]
    outputs = [*(form.settings[name] for name in names), form.grid["prompt"], form.grid["weights"], form.grid["steps"]]
    button.click(lambda: demo_values(names), [], outputs, **QUIET)


def _fill_recipe(recipe: Any, form: Form) -> None:
    """A chosen recipe fills in its fields; the others keep what they hold."""
    names = list(form.settings)
    recipe.change(lambda name: recipe_values(name, names), [recipe], list(form.settings.values()), **QUIET)


def recipe_values(name: str, names: Sequence[str]) -> list[Any]:
    """What the fields of `names` show for a recipe; no change where it says nothing of them."""
    rows, given = fields.rows(), preset(name).values if name else {}
    return [fields.shown(rows[one], given[one]) if one in given else gr.update() for one in names]


def demo_values(names: Sequence[str]) -> list[Any]:
    """The demo's settings for `names`, then its grid's prompt, weights and steps."""
    config, rows = ASSETS / "demo" / "config.toml", fields.rows()
    given = settings_module.read_config(config) if config.is_file() else {"resolution": 64, "output_name": "demo"}
    given |= {"train_data_dir": str(DEMO_PICTURES)}
    shown = [fields.shown(rows[name], given[name]) if name in given else gr.update() for name in names]
    grid = _demo_grid(ASSETS / "demo" / "grid.json")
    weights = ", ".join(f"{weight:g}" for weight in grid["weights"]) if "weights" in grid else gr.update()
    return [*shown, grid.get("prompt", gr.update()), weights, grid.get("steps", gr.update())]


def _demo_grid(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
