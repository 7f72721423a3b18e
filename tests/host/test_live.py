"""Live block weights and those in prompts, on a stand-in for A1111's Lora extension; tests/webui has the real one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lora_train.blocks.layout import index_of
from lora_train.blocks.lbw import INFOTEXT
from lora_train.blocks.presets import BUILTIN, LBW_DEFAULTS, format_numbers
from lora_train.errors import UserError
from lora_train.header import read_header
from lora_train.host.webui import live, prompts
from lora_train.paths import ROOT
from tests.blocks import loras

from . import lora_extension
from .lora_extension import Extension, run, values

TEXT, IN01, OUT05, OTHER = lora_extension.LAYERS
FLAT = ",1" * 16


@pytest.fixture
def networks(webui: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Extension:
    live.forget()
    return lora_extension.install(monkeypatch, webui, "a", "b")


def load(networks: Extension, *strengths: float) -> None:
    """a, then b, at these strengths."""
    names, both = ["a", "b"][: len(strengths)], list(strengths)
    networks.load_networks(names, both, both, [None] * len(both))


def weigh(networks: Extension, a: dict[str, float], b: dict[str, float] | None = None, te: float = 1.0) -> int:
    load(networks, 1.0, 0.5)
    return live.weigh({0: (te, 1.0, a), 1: (0.5, 0.5, b or {})})


def test_a_strength_with_weights_is_equal_to_the_same_alone() -> None:
    one = live.Weighted(0.5, {"IN01": 0.5}, "file", 1)
    assert one == live.Weighted(0.5, {"IN01": 0.5}, "file", 1)
    assert hash(one) == hash(live.Weighted(0.5, {"IN01": 0.5}, "file", 1))
    for other in (
        live.Weighted(0.5, {"IN01": 0.25}, "file", 1),
        live.Weighted(0.25, {"IN01": 0.5}, "file", 1),
        live.Weighted(0.5, {"IN01": 0.5}, "file", 2),
        0.5,
        None,
    ):
        assert one != other and other != one and (one, 1) != (other, 1)
    assert (one.of("IN01"), one.of("OUT05"), one * 2) == (0.25, 0.5, 1.0)


def test_without_that_extension_there_is_none(webui: SimpleNamespace) -> None:
    assert live.extension() is None
    live.plain()


def test_only_the_layers_of_a_block_that_moves_are_summed(webui: SimpleNamespace, networks: Extension) -> None:
    assert weigh(networks, {"IN01": 0.5, "BASE": 2.0}) == 4
    assert (run(webui), values(webui)) == ([TEXT, IN01, OUT05, OTHER], [2.5, 1.0, 1.5, 1.5])
    assert weigh(networks, {"IN01": 0.5, "BASE": 2.0}) == 0
    assert run(webui) == []
    assert weigh(networks, {"IN01": 0.25, "BASE": 2.0}) == 1
    assert (run(webui), values(webui)) == ([IN01], [2.5, 0.75, 1.5, 1.5])
    weigh(networks, {"IN01": 0.25, "BASE": 2.0}, {"OUT05": 0.0, "OTHER": 3.0})
    assert (run(webui), values(webui)) == ([OUT05, OTHER], [2.5, 0.75, 1.0, 2.5])
    weigh(networks, {"IN01": 0.25, "BASE": 2.0}, {"OUT05": 0.0, "OTHER": 3.0}, te=0.5)
    assert (run(webui), values(webui)) == ([TEXT], [1.5, 0.75, 1.0, 2.5])


def test_layers_that_did_not_run_are_summed_when_they_do(webui: SimpleNamespace, networks: Extension) -> None:
    """A picture that was called off leaves some behind."""
    weigh(networks, {})
    run(webui)
    weigh(networks, {"IN01": 0.5, "OUT05": 0.5})
    layers = webui.sd_models.model_data.sd_model.network_layer_mapping
    networks.network_apply_weights(layers[IN01])
    weigh(networks, {"IN01": 0.5, "OUT05": 0.5, "BASE": 0.0})
    assert (run(webui), values(webui)) == ([TEXT, OUT05], [0.5, 1.0, 1.0, 1.5])


def test_whatever_comes_between_is_summed_anew(webui: SimpleNamespace, networks: Extension) -> None:
    every = [TEXT, IN01, OUT05, OTHER]
    weigh(networks, {"IN01": 0.5})
    run(webui)
    load(networks, 1.0, 0.5)  # the user's own picture
    assert (run(webui), values(webui)) == (every, [1.5] * 4)
    weigh(networks, {"IN01": 0.5})
    assert (run(webui), values(webui)) == (every, [1.5, 1.0, 1.5, 1.5])
    networks.mtime["b"] = 2.0  # the file was replaced
    weigh(networks, {"IN01": 0.5})
    assert run(webui) == every
    webui.sd_models.model_data.sd_model = lora_extension.checkpoint()
    weigh(networks, {"IN01": 0.5})
    assert run(webui) == every
    load(networks)  # no LoRA at all
    assert live.weigh({}) == 0
    assert (run(webui), values(webui)) == (every, [0.0] * 4)
    weigh(networks, {"IN01": 0.5})
    assert (run(webui), values(webui)) == (every, [1.5, 1.0, 1.5, 1.5])
    live.forget()
    weigh(networks, {"IN01": 0.25})
    assert run(webui) == every


def test_what_another_extension_put_on_stays(webui: SimpleNamespace, networks: Extension) -> None:
    load(networks, 1.0)
    module = networks.loaded_networks[0].modules[IN01]
    module.multiplier = others = lambda: 3.0
    live.weigh({0: (1.0, 1.0, {"IN01": 0.5})})
    networks.networks_in_memory = {"a": networks.loaded_networks.pop()}
    live.plain()
    assert module.multiplier is others


def test_a_lora_that_goes_takes_only_its_own_with_it(webui: SimpleNamespace, networks: Extension) -> None:
    weigh(networks, {"IN01": 0.5}, dict.fromkeys(("BASE", "IN01", "OTHER"), 0.0))
    run(webui)
    load(networks, 1.0)
    live.weigh({0: (1.0, 1.0, {"IN01": 0.5})})
    assert values(webui) == [1.0, 0.5, 1.5, 1.0]
    run(webui)
    assert values(webui) == [1.0, 0.5, 1.0, 1.0]


def test_afterwards_strengths_are_plain(webui: SimpleNamespace, networks: Extension) -> None:
    weigh(networks, {"IN01": 0.5})
    run(webui)
    live.plain()
    assert [type(net.te_multiplier) for net in networks.loaded_networks] == [float, float]
    modules = [module for net in networks.loaded_networks for module in net.modules.values()]
    assert not any("multiplier" in vars(module) for module in modules), "what was put on is taken off"
    assert run(webui) and values(webui) == [1.5] * 4


def test_what_the_texts_depend_on(webui: SimpleNamespace, networks: Extension) -> None:
    weigh(networks, {"IN01": 0.5})
    one = live.text_effect()
    weigh(networks, {"IN01": 0.25})
    assert live.text_effect() == one
    weigh(networks, {"BASE": 0.25})
    assert live.text_effect() != one


# In prompts


class Params:
    """The WebUI's arguments of a LoRA in a prompt."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)


class Job:
    """A txt2img job: what the WebUI does of it, in its order."""

    def __init__(self, *prompts: str, hr: str = "") -> None:
        self.all_prompts, self.all_hr_prompts = list(prompts), [hr] if hr else None
        self.extra_generation_params: dict[str, str] = {}
        self.extra_network_data: dict[str, list[Params]] = {}
        self.hr_extra_network_data: dict[str, list[Params]] = {}
        self.parse_extra_network_prompts: Any = None
        self.scripts: Any = None

    def init(self) -> None: ...

    def setup_conds(self) -> None: ...


@pytest.fixture
def own(webui: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own presets: MINE."""
    monkeypatch.setattr("lora_train.host.webui.host.WebUIHost.data_dir", lambda self: tmp_path)
    path = tmp_path / "block-presets.txt"
    path.write_text(f"MINE:0{FLAT}\nBROKEN:1,x{FLAT[:-2]}\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def not_an_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies beside this checkout."""
    monkeypatch.setattr("lora_train.blocks.presets.ROOT", ROOT / "none")


def arguments(*tags: str) -> dict[str, list[Params]]:
    return {"lora": [Params(*tag.split(":")) for tag in tags]}


def activate(networks: Extension, job: Job, *tags: str) -> dict[str, list[Params]]:
    data = arguments(*tags)
    networks.load_networks(
        [tag.partition(":")[0] for tag in tags], [1.0] * len(tags), [1.0] * len(tags), [None] * len(tags)
    )
    prompts.weigh(job, data)
    return data


def test_a_prompt_with_weights(webui: SimpleNamespace, networks: Extension, own: Path) -> None:
    job = Job("x <lora:a:0.5:lbw=MINE> <lora:b:1>")
    prompts.check(job)
    assert job.extra_generation_params == {INFOTEXT: f"a:MINE:0{FLAT}"}
    data = activate(networks, job, "a:0.5:lbw=MINE", "b:1")
    job.init()
    job.setup_conds()
    assert data["lora"][0].items == ["a", "0.5", f"lbw=0{FLAT}"]  # for the WebUI's kept text states
    run(webui)
    assert values(webui) == [1.0, 1.5, 1.5, 1.5]
    own.write_text("MINE:" + format_numbers(BUILTIN["NONE"]), encoding="utf-8")
    activate(networks, job, "a:0.5:lbw=MINE", "b:1")
    run(webui)
    assert values(webui) == [1.0, 1.0, 1.0, 1.5]


def test_the_cells_of_a_plot_have_each_their_own_text(networks: Extension, own: Path) -> None:
    """The WebUI gives all of them the same table of texts."""
    shared: dict[str, str] = {}
    for name, wanted in {"MINE": f"a:MINE:0{FLAT}", "ALL": f"a:ALL:1{FLAT}", f"0{FLAT}": None}.items():
        cell = Job(f"<lora:a:1:lbw={name}>")
        cell.extra_generation_params = shared
        prompts.check(cell)
        activate(networks, cell, f"a:1:lbw={name}")
        assert shared.get(INFOTEXT) == wanted


def test_one_strength_counts_for_both(webui: SimpleNamespace, networks: Extension, own: Path) -> None:
    """As LoRA Block Weight has it; the WebUI itself would have a text encoder at 1."""
    activate(networks, Job(""), "a:unet=0.25:w=ALL")
    run(webui)
    assert values(webui) == [0.25] * 4


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("<lora:a:1:lbw=NOPE>", "prompt, <lora:a:1:lbw=NOPE>: there is no preset 'NOPE'"),
        ("<lora:a:1:lbw=1,2,3>", "3 numbers where SD1.5 has 17"),
        ("<lora:a:1:lbw=BROKEN>", "preset 'BROKEN' can't be used"),
        ("<lora:a:1:lbw=>", "lbw= is empty"),
        ("<lora:a:1:lbw=ALL> <lora:a:0.5>", "this one stands there twice"),
    ],
)
@pytest.mark.parametrize("second_pass", [False, True])
def test_what_cannot_be_read_ends_the_job(
    tag: str, words: str, second_pass: bool, networks: Extension, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is said on the page: a plot goes on without that cell."""
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Warning=said.append))
    job = Job("x", hr=tag) if second_pass else Job(tag)
    prompts.check(job)
    with pytest.raises(UserError) as raised:
        job.init()
    assert words in str(raised.value)
    assert said == [str(raised.value).replace("<", "‹")]


def test_functions_that_do_nothing_are_not_taken_for_the_real_ones(
    networks: Extension, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ReForge has A1111's names in its Lora extension, as empty shells."""
    assert live.extension() is not None
    for name in ("ldm_patched", "ldm_patched.modules", "ldm_patched.modules.model_management"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert live.extension() is None


def test_what_is_put_into_a_prompt_later_is_read_too(networks: Extension, own: Path) -> None:
    """By extensions that fill in wildcards."""
    job = Job("__wildcard__")
    prompts.check(job)
    activate(networks, job, "a:1:lbw=MINE")
    job.setup_conds()
    assert job.extra_generation_params == {INFOTEXT: f"a:MINE:0{FLAT}"}
    activate(networks, job, "a:1:lbw=NOPE")
    with pytest.raises(UserError, match="no preset 'NOPE'"):
        job.setup_conds()


def test_other_prompts_are_none_of_ours(networks: Extension, own: Path) -> None:
    own.write_bytes(b"\xff\xfe")
    for prompt in ("x", "<lora:a:1>", "<lora:a:0-1@0.5>", "<lora:a:1:start=3>", "<hypernet:a:lbw=1>"):
        job = Job(prompt)
        prompts.check(job)
        activate(networks, job, "a:1")
        job.init()
        job.setup_conds()
        assert job.extra_generation_params == {}
    job = Job("<lora:a:1:lbw=ALL>")
    prompts.check(job)
    with pytest.raises(UserError, match="UTF-8"):
        job.init()


@pytest.mark.parametrize("runs", [True, False])
def test_lora_block_weight_is_left_alone(webui: SimpleNamespace, networks: Extension, own: Path, runs: bool) -> None:
    job = Job("<lora:a:1:lbw=NOPE>")
    script = type("Script", (), {"__module__": "lora_block_weight.py"})
    if runs:  # among the job's scripts
        job.scripts = SimpleNamespace(alwayson_scripts=[script()])
    else:
        webui.scripts.scripts_data = [SimpleNamespace(script_class=script, module=None)]
    prompts.check(job)
    data = activate(networks, job, "a:1:lbw=NOPE")
    job.init()
    job.setup_conds()
    assert data["lora"][0].items == ["a", "1", "lbw=NOPE"]
    assert type(networks.loaded_networks[0].te_multiplier) is float


def test_a_grid_of_ours_runs_without_it(webui: SimpleNamespace, networks: Extension, own: Path) -> None:
    """Although it is there: then the weights are ours to do."""
    script = type("Script", (), {"__module__": "lora_block_weight.py"})
    webui.scripts.scripts_data = [SimpleNamespace(script_class=script, module=None)]
    job = Job("<lora:a:1:lbw=NOPE>")
    job.scripts = SimpleNamespace(alwayson_scripts=[object()])
    prompts.check(job)
    with pytest.raises(UserError, match="no preset 'NOPE'"):
        job.init()


def test_a_checkpoint_without_known_blocks(webui: SimpleNamespace, networks: Extension, own: Path) -> None:
    webui.sd_models.model_data.sd_model.is_sd1 = False
    job = Job("<lora:a:1:lbw=ALL>")
    prompts.check(job)
    with pytest.raises(UserError, match="blocks of this checkpoint are not known"):
        job.init()


def test_a_pictures_text_brings_its_numbers_back(webui: SimpleNamespace, own: Path) -> None:
    webui.errors.report = lambda text: told.append(text)
    told: list[str] = []
    prompt = "<lora:a:1:lbw=MINE> <lora:b:0-1@0.5>"
    for then, wanted in ((f"0{FLAT}", prompt), (f"0.5{FLAT}", prompt.replace("MINE", f"0.5{FLAT}"))):
        params = {"Prompt": prompt, INFOTEXT: f"a:MINE:{then}"}
        prompts.pasted("", params)
        assert params["Prompt"] == wanted
    for params in ({"Prompt": prompt}, {"Prompt": prompt, INFOTEXT: "junk"}):
        prompts.pasted("", params)
        assert params["Prompt"] == prompt
    assert len(told) == 1 and "junk" in told[0]


def test_the_script_of_the_webui(webui: SimpleNamespace, networks: Extension, own: Path) -> None:
    webui.scripts.Script, webui.scripts.AlwaysVisible = object, object()
    script, job = prompts.script()(), Job("<lora:a:1:lbw=MINE>")
    assert script.show(True) is webui.scripts.AlwaysVisible and script.title()
    script.process(job)
    load(networks, 1.0)
    script.after_extra_networks_activate(job, batch_number=0, extra_network_data=arguments("a:1:lbw=MINE"))
    assert isinstance(networks.loaded_networks[0].te_multiplier, live.Weighted)
    script.postprocess(job, None)
    assert type(networks.loaded_networks[0].te_multiplier) is float


@pytest.mark.parametrize("kind", ["webui", "forge"])
def test_where_loras_cannot_be_given_weights_a_file_has_them(
    kind: str, request: pytest.FixtureRequest, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's own prompt stays; it is the arguments of both passes that name the file."""
    webui = request.getfixturevalue(kind)
    packages = SimpleNamespace(ExtraNetworkParams=lambda items: Params(*items))
    monkeypatch.setitem(sys.modules, "modules.extra_networks", packages)  # type: ignore[arg-type]
    webui.sd_models.model_data.sd_model = SimpleNamespace(is_sd1=True)
    file = loras.write(tmp_path / "a.safetensors", loras.state(loras.modules(), 2))
    known = {name: SimpleNamespace(filename=str(file)) for name in ("a", "alias")}
    networks = SimpleNamespace(available_networks=known, available_network_aliases=known)
    monkeypatch.setitem(sys.modules, "networks", networks)  # type: ignore[arg-type]

    def parsed(job: Job, first: list[str], second: list[str]) -> list[list[list[str]]]:
        def parse() -> str:
            job.extra_network_data, job.hr_extra_network_data = arguments(*first), arguments(*second)
            return "made"

        job.parse_extra_network_prompts = parse
        prompts.check(job)
        assert job.parse_extra_network_prompts() == "made"
        job.init()
        job.setup_conds()
        return [[it.items for it in data["lora"]] for data in (job.extra_network_data, job.hr_extra_network_data)]

    job = Job("<lora:a:0.5:lbw=MINE> <lora:b:1>", hr="<lora:alias:1:lbw=ALL>")
    first, second = parsed(job, ["a:0.5:lbw=MINE", "b:1"], ["alias:1:lbw=ALL"])
    assert job.extra_generation_params == {INFOTEXT: f"a:MINE:0{FLAT}; alias:ALL:1{FLAT}"}
    files = sorted(path.stem for path in tmp_path.rglob("train-lora-*.safetensors"))
    assert first[0] == ["b", "1"] and sorted([first[1][0], second[0][0]]) == files and len(files) == 2
    assert index_of(open_shapes(tmp_path, first[1][0]), "x").blocks().keys().isdisjoint({"BASE"})
    known[files[0]] = known["a"]
    prompts.tidy(job)
    assert not list(tmp_path.rglob("train-lora-*")) and files[0] not in known

    assert parsed(Job(""), ["a:1:lbw=NONE"], []) == [[], []]
    for tag, words in {"gone:1:lbw=ALL": "no such LoRA", "a:1:1:4:lbw=ALL": "dyn= and lbw="}.items():
        with pytest.raises(UserError, match=words):
            parsed(Job(""), [tag], [])
    assert parsed(Job(""), ["a:1", "b:2"], []) == [[["a", "1"], ["b", "2"]], []]


def open_shapes(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    [path] = folder.rglob(f"{name}.safetensors")
    return read_header(path, "LoRA").shapes()


def test_builtin_presets_are_there_without_a_file(networks: Extension, own: Path) -> None:
    own.unlink()
    for name in LBW_DEFAULTS:
        job = Job(f"<lora:a:1:lbw={name}>")
        prompts.check(job)
        job.init()
