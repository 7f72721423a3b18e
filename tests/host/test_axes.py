"""Our axes of the X/Y/Z plot, in a plot that goes about them as the WebUI's does; tests/webui uses the real one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_train.errors import UserError
from lora_train.host.webui import axes
from lora_train.network.kohya import write_lora

from . import lora_extension


class AxisOption:
    """The plot's own, xyz_grid.py."""

    def __init__(
        self,
        label: str,
        type: Any,
        apply: Any,
        format_value: Any = None,
        confirm: Any = None,
        cost: float = 0.0,
        choices: Any = None,
        prepare: Any = None,
    ) -> None:
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


@dataclass
class Job:
    """A txt2img job."""

    prompt: str
    hr_prompt: str = ""


@pytest.fixture
def plot(webui: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """xyz_grid.py as the WebUI has loaded it, and LoRA files of two runs."""
    for n, name in enumerate(("cat-000001", "cat-000002", "cat", "sub/一只 狗-000003", "style")):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_lora(path, {"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, {"ss_epoch": "3"}, torch.float16)
        os.utime(path, (1000 + n, 1000 + n))
    module = SimpleNamespace(axis_options=[AxisOption("Nothing", str, lambda p, x, xs: None)], AxisOption=AxisOption)
    script = type("Script", (), {"__module__": "xyz_grid.py"})
    webui.scripts.scripts_data = [SimpleNamespace(script_class=script, module=module)]
    axes.register()
    return module


def with_block_weight(webui: SimpleNamespace) -> None:
    script = type("Script", (), {"__module__": "lora_block_weight.py"})
    webui.scripts.scripts_data.append(SimpleNamespace(script_class=script, module=None))


def cells(
    webui: SimpleNamespace, plot: SimpleNamespace, prompt: str, *axis: tuple[str, list[Any]], **more: Any
) -> list[str]:
    """The prompts that the plot draws, X outermost here; axes are (label, values)."""
    options = {option.label: option for option in plot.axis_options}
    job = Job(prompt)
    vars(job).update(more)
    confirmed: list[tuple[Any, list[Any]]] = []
    for label, given in axis:
        option, values = options[label], [options[label].type(value) for value in given]
        if option.confirm:
            option.confirm(job, values)
        confirmed.append((option, values))
    confirmed += [(options["Nothing"], [0])] * (3 - len(confirmed))
    for name, (option, values) in zip("xyz", confirmed, strict=True):
        setattr(webui.shared.state, f"xyz_plot_{name}", SimpleNamespace(axis=option, values=values))
    drawn = [job]
    for option, values in confirmed:
        drawn = [applied(option, one, value, values) for one in drawn for value in values]
    return [one.hr_prompt or one.prompt for one in drawn]


def applied(option: Any, job: Job, value: Any, values: Sequence[Any]) -> Job:
    job = copy(job)
    option.apply(job, value, values)
    return job


def test_they_are_there_once_however_often_the_ui_is_reloaded(webui: SimpleNamespace, plot: SimpleNamespace) -> None:
    labels = ["Nothing", axes.EPOCH, axes.WEIGHT, axes.PRESET]
    assert [option.label for option in plot.axis_options] == labels
    axes.register()  # Classic keeps its list
    assert [option.label for option in plot.axis_options] == labels
    plot.axis_options = plot.axis_options[:1]  # A1111 makes a new one
    axes.register()
    assert [option.label for option in plot.axis_options] == labels


def test_without_a_plot_nothing_happens(webui: SimpleNamespace) -> None:
    webui.scripts.scripts_data = []
    axes.register()
    webui.scripts.scripts_data = [
        SimpleNamespace(script_class=type("S", (), {"__module__": "xyz_grid.py"}), module=None)
    ]
    axes.register()


def test_choices_are_the_files_of_runs(plot: SimpleNamespace) -> None:
    assert axes.choices() == [
        "一只 狗 (all epochs)",
        "一只 狗-000003",
        "cat (all epochs)",
        "cat-000001",
        "cat-000002",
        "cat",
    ]
    assert [axes._epoch_label(None, None, name) for name in ("cat-000001", "cat")] == ["cat epoch 1", "cat"]


def test_an_epoch_takes_the_place_of_one_of_its_run(webui: SimpleNamespace, plot: SimpleNamespace) -> None:
    given = (axes.EPOCH, ["cat (all epochs)", "cat-000002", "一只 狗-000003"])
    assert cells(webui, plot, "a <lora:style:1>, <lora:cat-000009:0.4:0.6> b", given) == [
        "a <lora:style:1>, <lora:cat-000001:0.4:0.6> b",
        "a <lora:style:1>, <lora:cat-000002:0.4:0.6> b",
        "a <lora:style:1>, <lora:cat:0.4:0.6> b",
        "a <lora:style:1>, <lora:cat-000009:0.4:0.6> b <lora:一只 狗-000003:1>",
    ]


def test_the_usual_weight_is_the_users(webui: SimpleNamespace, plot: SimpleNamespace) -> None:
    webui.shared.opts.extra_networks_default_multiplier = 0.7
    assert cells(webui, plot, "", (axes.EPOCH, ["cat"])) == ["<lora:cat:0.7>"]


@pytest.mark.parametrize("weight_first", [True, False])
def test_epochs_and_weights_in_either_order(webui: SimpleNamespace, plot: SimpleNamespace, weight_first: bool) -> None:
    """The plot applies X, then Y, then Z: the weight is the epoch's, and never another LoRA's."""
    both = [(axes.WEIGHT, [0.5, 1]), (axes.EPOCH, ["cat-000001", "cat-000002"])]
    found = cells(webui, plot, "a <lora:style:0.3>", *(both if weight_first else both[::-1]))
    names = ("cat-000001", "cat-000002")
    assert sorted(found) == sorted(
        f"a <lora:style:0.3> <lora:{name}:{weight}>" for name in names for weight in (0.5, 1)
    )


@pytest.mark.parametrize(
    ("prompt", "weighted"),
    [
        ("<lora:style:1> <lora:cat-000001:0.2>", "<lora:style:1> <lora:cat-000001:0.5>"),
        ("<lora:style:1:0.2> x", "<lora:style:0.5> x"),
        ("<lora:style>", "<lora:style:0.5>"),
        ("<lora:cat-000001:te=1:unet=0.2:lbw=IND:dyn=4>", "<lora:cat-000001:0.5:lbw=IND:dyn=4>"),
    ],
)
def test_a_weight_alone_is_that_of_the_prompts_lora(
    prompt: str, weighted: str, webui: SimpleNamespace, plot: SimpleNamespace
) -> None:
    assert cells(webui, plot, prompt, (axes.WEIGHT, [0.5])) == [weighted]


def test_the_prompt_of_the_second_pass_changes_too(webui: SimpleNamespace, plot: SimpleNamespace) -> None:
    found = cells(webui, plot, "a", (axes.EPOCH, ["cat-000002"]), hr_prompt="large <lora:cat:1>")
    assert found == ["large <lora:cat-000002:1>"]


def test_what_cannot_be_drawn_is_said_before(webui: SimpleNamespace, plot: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="no <lora"):
        cells(webui, plot, "a cat", (axes.WEIGHT, [0.5]))
    with pytest.raises(UserError, match="dog-000001: there is no such LoRA"):
        cells(webui, plot, "a cat", (axes.EPOCH, ["dog-000001"]))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own presets."""
    monkeypatch.setattr("lora_train.blocks.presets.ROOT", tmp_path)
    monkeypatch.setattr("lora_train.host.webui.host.WebUIHost.data_dir", lambda self: tmp_path)
    text = f"MINE:{','.join(['0.25'] * 17)}\nXL:{','.join(['1'] * 12)}\nBROKEN:1,2,x{',1' * 14}\n"
    (tmp_path / "block-presets.txt").write_text(text, encoding="utf-8")


def test_block_presets_of_our_own(
    webui: SimpleNamespace, plot: SimpleNamespace, own: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora_extension.install(monkeypatch, webui, "cat")
    option = next(option for option in plot.axis_options if option.label == axes.PRESET)
    assert {"MINE", "GP1", "ALL"} <= set(option.choices()) and "XL" not in option.choices()
    assert cells(webui, plot, "<lora:cat:1>", (axes.PRESET, ["MINE"])) == [
        f"<lora:cat:1:lbw={','.join(['0.25'] * 17)}>"
    ]
    for name, words in {"NOPE": "no preset 'NOPE'", "XL": "12 are for SDXL", "BROKEN": "can't be used"}.items():
        with pytest.raises(UserError, match=words):
            cells(webui, plot, "<lora:cat:1>", (axes.PRESET, ["ALL", name]))


def test_block_presets_where_lora_block_weight_is(webui: SimpleNamespace, plot: SimpleNamespace, own: None) -> None:
    with_block_weight(webui)
    axes.register()
    running = SimpleNamespace(title=lambda: "LoRA Block Weight", args_from=1, args_to=3)
    job: dict[str, Any] = {"scripts": SimpleNamespace(alwayson_scripts=[running]), "script_args": [0, "presets", True]}
    both = [(axes.PRESET, ["ALL0.5"]), (axes.EPOCH, ["cat-000001"])]
    numbers = ",".join(["0.5"] * 17)
    assert cells(webui, plot, "a", *both, **job) == [f"a <lora:cat-000001:1:lbw={numbers}>"]
    assert cells(webui, plot, "<lora:cat:0.3:lbw=X>", (axes.PRESET, ["ALL0.5"]), **job) == [
        f"<lora:cat:0.3:lbw={numbers}>"
    ]
    with pytest.raises(UserError, match="no preset 'NOPE'"):
        cells(webui, plot, "<lora:cat:1>", (axes.PRESET, ["NOPE"]), **job)
    for inactive in ({**job, "script_args": [0, "presets", False]}, {}):
        with pytest.raises(UserError, match="not active"):
            cells(webui, plot, "<lora:cat:1>", (axes.PRESET, ["ALL0.5"]), **inactive)
