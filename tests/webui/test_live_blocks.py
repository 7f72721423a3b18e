"""Block weights in a real A1111: of a picture that is asked for, and of any prompt, with and without LoRA Block Weight.

Whether LoRA Block Weight is there is as in the folder that TRAIN_LORA_WEBUI names; both ways are to be run.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops

from lora_train.blocks.families import weights_by_block
from lora_train.blocks.presets import BUILTIN, format_numbers
from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.kohya import write_lora
from lora_train.network.lora import LoraNetwork, LoraSpec, Size
from lora_train.network.names import targets
from tests.blocks import loras
from tests.grid.conftest import write
from tests.webui import live_calls, narrow
from tests.webui.conftest import FOLDER, PROMPT, PYTHON
from tests.webui.server import API, FLAGS, WebUI, digest

OURS = Path(__file__).resolve().parent.parent.parent
LBW = bool(FOLDER) and any(Path(FOLDER, "extensions").glob("*/scripts/lora_block_weight.py"))
CALLS = [name for name in vars(live_calls) if name.startswith("call_")]
NUMBERS = tuple(n / 16 for n in range(17))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One process for all calls."""
    out = tmp_path_factory.mktemp("live")
    checkpoint = narrow.install(out, Family.SD15)
    files(out / "loras", checkpoint)
    flags = (*FLAGS, "--ckpt-dir", str(out), "--ckpt", str(checkpoint), "--lora-dir", str(out / "loras"))
    own = ("--disable-extra-extensions", "--ui-settings-file", str(out / "config.json"))
    done = subprocess.run(
        [PYTHON, live_calls.__file__, str(out), str(OURS), *flags, *own],
        cwd=FOLDER,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=900,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    print(times := json.loads((out / "times.json").read_text(encoding="utf-8")))  # noqa: T201 (shown by -s)
    return {**json.loads((out / "report.json").read_text(encoding="utf-8")), "times": times}


def files(folder: Path, checkpoint: Path) -> None:
    """Two LoRAs, one of the wrong shape, and one of each kind."""
    folder.mkdir()
    write(folder / "a.safetensors", load_model(checkpoint), rank=4, seed=1)
    write(folder / "b.safetensors", load_model(checkpoint), rank=2, seed=2)
    wrong = {"lora_unet_mid_block_attentions_0_proj_in": (8, 8, 1, 1)}
    loras.write(folder / "wide.safetensors", loras.state(wrong, 2))
    (folder / "kinds").mkdir()
    model = load_model(checkpoint)
    conv = {"conv": Size(2, 1)}
    forms: dict[str, dict[str, Any]] = {
        "locon": conv,
        "dora": {**conv, "dora": True},
        "loha": {**conv, "form": "loha"},
        "lokr": {**conv, "form": "lokr"},
    }
    for name, more in forms.items():
        network = LoraNetwork.create(model, LoraSpec(Size(2, 1), **more), seed=3)
        state = {
            key: value if "alpha" in key or "dora" in key else torch.randn_like(value) * 0.1
            for key, value in network.state_dict().items()
        }
        network.remove()
        write_lora(folder / "kinds" / f"kind-{name}.safetensors", state, {}, torch.float32)
    for name, made in {"whole": whole(model), "glora": glora(model)}.items():
        loras.write(folder / "kinds" / f"kind-{name}.safetensors", made)


def whole(model: StableDiffusion) -> dict[str, torch.Tensor]:
    """Differences with a bias, and norms."""
    found = {}
    for target in targets(model, conv=True):
        if target.layer.bias is not None:
            found[f"{target.key}.diff"] = torch.randn_like(target.layer.weight) * 0.01
            found[f"{target.key}.diff_b"] = torch.randn_like(target.layer.bias) * 0.1
    for name, layer in model.unet.named_modules():
        if "resnets" in name and name.rpartition(".")[2] in ("norm1", "norm2"):
            key = f"lora_unet_{name.replace('.', '_')}"
            found |= {f"{key}.w_norm": torch.randn_like(layer.weight), f"{key}.b_norm": torch.randn_like(layer.bias)}
    return found


def glora(model: StableDiffusion) -> dict[str, torch.Tensor]:
    found = {}
    for target in targets(model):
        if target.layer.weight.dim() == 2:
            out, inputs = target.layer.weight.shape
            shapes = {"a1": (2, inputs), "a2": (inputs, 2), "b1": (2, inputs), "b2": (out, 2)}
            found |= {f"{target.key}.{part}.weight": torch.randn(shape) * 0.1 for part, shape in shapes.items()}
            found[f"{target.key}.alpha"] = torch.tensor(1.0)
    return found


@pytest.mark.parametrize("call", CALLS)
def test_in_the_webui(report: dict[str, str], call: str) -> None:
    assert report[call] == "", report[call]


# Any prompt


@pytest.fixture(scope="module")
def lora(webui: WebUI, work: Path, model: Path) -> str:
    """A LoRA that the running WebUI knows; its name, in the file too."""
    for seed, name in enumerate(("hina", "other"), start=1):
        write(work / "loras" / f"{name}.safetensors", load_model(model), rank=4, seed=seed)
    webui.post("/sdapi/v1/refresh-loras", {})
    return "hina"


def text2img(webui: WebUI, prompt: str, **more: Any) -> dict[str, Any]:
    wanted = {
        "prompt": prompt,
        "seed": 1,
        "steps": 3,
        "width": 64,
        "height": 64,
        "cfg_scale": 5,
        "sampler_name": "Euler",
    }
    return webui.post("/sdapi/v1/txt2img", {**wanted, **more})


def pixels(answer: dict[str, Any]) -> list[str]:
    """Digests of its pictures."""
    assert "images" in answer, answer
    return [digest(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in answer["images"]]


def text_of(answer: dict[str, Any]) -> str:
    return str(json.loads(answer["info"])["infotexts"][0])


def test_the_axis_is_there(webui: WebUI) -> None:
    [plot] = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    assert "Block preset" in plot["args"][0]["choices"]


def test_weights_in_any_prompt(webui: WebUI, lora: str) -> None:
    """The ends and the middle are those of plain strengths; a preset is its numbers."""
    bare, full = digest(webui.draw(PROMPT)), digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5>"))
    assert bare != full
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5:lbw=NONE>")) == bare
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5:lbw=ALL>")) == full
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:1:lbw=ALL0.5>")) == full
    ramp = digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5:lbw={format_numbers(NUMBERS)}>"))
    assert ramp not in (bare, full)
    halves = format_numbers((NUMBERS[0], *(number / 2 for number in NUMBERS[1:])))
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:te=0.5:unet=1:lbw={halves}>")) == ramp
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:unet=0.5:lbw={format_numbers(NUMBERS)}>")) == ramp
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5>")) == full
    assert digest(webui.draw(PROMPT)) == bare


def test_the_text_encoder_alone(webui: WebUI, lora: str) -> None:
    """Kept text states are not those of other numbers."""
    rest = ",1" * 16
    one = digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5:lbw=0{rest}>"))
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5:lbw=1{rest}>")) != one
    assert digest(webui.draw(f"{PROMPT} <lora:{lora}:0:0.5>")) == one


@pytest.mark.skipif(LBW, reason="LoRA Block Weight does it here")
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("lbw=NOPE", "there is no preset 'NOPE'"),
        ("lbw=1,2,3", "3 numbers where SD1.5 has 17"),
        ("lbw=" + ",".join("1" * 12), "12 are for SDXL"),
        ("lbw=R" + ",1" * 16, "changes from picture to picture"),
        ("lbw=ALL:start=3", "start= is of the extension LoRA Block Weight"),
    ],
)
def test_what_cannot_be_read_draws_nothing(webui: WebUI, lora: str, weights: str, words: str) -> None:
    answer = text2img(webui, f"{PROMPT} <lora:{lora}:1:{weights}>")
    assert "images" not in answer, answer.keys()
    assert words in answer["errors"] and f"<lora:{lora}:1:" in answer["errors"], answer
    assert "images" in text2img(webui, PROMPT)


@pytest.mark.skipif(LBW, reason="LoRA Block Weight does it here")
def test_a_lora_that_stands_there_twice(webui: WebUI, lora: str) -> None:
    answer = text2img(webui, f"{PROMPT} <lora:{lora}:1:lbw=ALL> <lora:{lora}:0.5>")
    assert "stands there twice" in answer["errors"]


@pytest.mark.skipif(LBW, reason="LoRA Block Weight does it here")
def test_the_numbers_go_into_the_text_and_come_back(webui: WebUI, lora: str) -> None:
    numbers = format_numbers(BUILTIN["GP1"])
    text = text_of(text2img(webui, f"{PROMPT} <lora:{lora}:0.5:lbw=GP1>"))
    assert f"<lora:{lora}:0.5:lbw=GP1>" in text
    assert f'LoRA block numbers: "{lora}:GP1:{numbers}"' in text
    assert "LoRA block numbers" not in text_of(text2img(webui, f"{PROMPT} <lora:{lora}:0.5:lbw={numbers}>"))
    then = text.replace(numbers, format_numbers(NUMBERS))
    assert pasted(webui, text).splitlines()[0] == f"{PROMPT} <lora:{lora}:0.5:lbw=GP1>"
    assert pasted(webui, then).splitlines()[0] == f"{PROMPT} <lora:{lora}:0.5:lbw={format_numbers(NUMBERS)}>"


def pasted(webui: WebUI, text: str) -> str:
    """What the prompt is after the button with the arrow; the API has no such thing but this."""
    page = webui.get("/config")
    prompt = next(c["id"] for c in page["components"] if c["props"].get("elem_id") == "txt2img_prompt")
    button = next(c["id"] for c in page["components"] if c["props"].get("elem_id") == "paste")
    number, event = next(
        (n, event)
        for n, event in enumerate(page["dependencies"])
        if button in event["targets"] and event["inputs"] == [prompt]
    )
    answer = webui.post("/run/predict", {"fn_index": number, "data": [text], "session_hash": "paste"})
    return str(answer["data"][event["outputs"].index(prompt)]["value"])


@pytest.mark.skipif(LBW, reason="LoRA Block Weight does it here")
def test_hires_fix(webui: WebUI, lora: str) -> None:
    second = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    numbers = format_numbers(NUMBERS)
    tags = [f"<lora:{lora}:0.5:lbw={it}>" for it in ("ALL", numbers, "NONE")]
    pictures = [pixels(text2img(webui, f"{PROMPT} {tag}", **second)) for tag in tags]
    assert pictures[0] != pictures[1] != pictures[2] != pictures[0]
    assert pixels(text2img(webui, f"{PROMPT} <lora:{lora}:0.5>", **second)) == pictures[0]
    assert pixels(text2img(webui, PROMPT, **second)) == pictures[2]
    # The second pass alone has weights, then the first.
    apart = pixels(text2img(webui, PROMPT, hr_prompt=f"{PROMPT} {tags[1]}", **second))
    assert apart not in pictures
    assert pixels(text2img(webui, f"{PROMPT} {tags[1]}", **second)) == pictures[1]
    answer = text2img(webui, PROMPT, hr_prompt=f"{PROMPT} <lora:{lora}:1:lbw=NOPE>", **second)
    assert "there is no preset 'NOPE'" in answer["errors"]


@pytest.mark.skipif(LBW, reason="LoRA Block Weight does it here")
def test_a_preset_that_changes_under_its_name(webui: WebUI, lora: str, presets: Callable[[str], None]) -> None:
    """Never an old picture, neither of the UNet nor of the kept text states."""
    prompt = f"{PROMPT} <lora:{lora}:0.5:lbw=MINE>"
    seen = set()
    for numbers in ("1" + ",1" * 16, "0" + ",1" * 16, "0" + ",1" * 15 + ",0"):
        presets(f"MINE:{numbers}\n")
        drawn = digest(webui.draw(prompt))
        assert digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5:lbw={numbers}>")) == drawn
        assert digest(webui.draw(prompt)) == drawn
        seen.add(drawn)
    assert len(seen) == 3


@pytest.fixture
def presets(webui: WebUI) -> Any:
    """presets(text) writes the user's file; afterwards it is as it was."""
    path = Path(webui.get("/lora-train/v1/blocks/presets")["file"])
    before = path.read_bytes() if path.is_file() else None

    def put(text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    yield put
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)


def test_the_plot_draws_presets(webui: WebUI, lora: str) -> None:
    """X/Y/Z with our axis; where LoRA Block Weight is there, it draws the same."""
    [plot] = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    axis = plot["args"][0]["choices"].index("Block preset")
    rest = [0, "", [], 0, "", [], True, True, False, True, False, False, False, 0, False]
    arguments = [axis, "", ["ALL", "NONE", "GP1"], *rest]
    answer = text2img(webui, f"{PROMPT} <lora:{lora}:0.5>", script_name="x/y/z plot", script_args=arguments)
    cells = pixels(answer)[1:]
    assert len(cells) == len(set(cells)) == 3
    assert cells[0] == digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5>"))
    assert cells[1] == digest(webui.draw(PROMPT))
    wrong = [axis, "", ["ALL", "NOPE"], *rest]
    answer = text2img(webui, f"{PROMPT} <lora:{lora}:0.5>", script_name="x/y/z plot", script_args=wrong)
    assert "there is no preset 'NOPE'" in answer["errors"]


def test_a_try_between_two_of_the_users_pictures(webui: WebUI, lora: str) -> None:
    """It is what the prompt with the same numbers draws, and leaves no trace."""
    weights = weights_by_block(NUMBERS)
    numbers = format_numbers(NUMBERS)
    prompts = (PROMPT, f"{PROMPT} <lora:{lora}:0.5>", f"{PROMPT} <lora:{lora}:0.5:lbw={numbers}>")
    shot = {"prompt": PROMPT, "seeds": [1], "steps": 3, "cfg_scale": 5, "width": 64, "height": 64, "sampler": "Euler"}
    mix = {"loras": [{"name": lora, "te": 0.5, "unet": 0.5, "weights": weights}], "shot": shot}
    board = webui.post(f"{API}/blocks/boards", {"name": "webui-test"})["id"]
    place = f"{API}/blocks/boards/{board}"
    try:
        for number, prompt in enumerate(prompts):
            before = webui.draw(prompt)
            mix["loras"][0]["te"] = 0.5 + number / 64  # type: ignore[index]  # another one each time
            attempt = webui.post(f"{place}/tries", {"mix": mix})["try"]["id"]
            while (now := webui.get(f"{place}/now"))["running"] or now["waiting"]:
                time.sleep(0.2)
            assert now["last"]["state"] == "done", now
            assert digest(webui.draw(prompt)) == digest(before), prompt
            if number == 0:
                drawn = Image.open(io.BytesIO(webui.read(f"{place}/pictures/{attempt}/0.png"))).convert("RGB")
                wanted = webui.draw(prompts[2])
                assert max(high for _, high in ImageChops.difference(drawn, wanted).getextrema()) <= 2
    finally:
        webui.post(f"{place}/remove", {})


def test_the_prompt_of_a_grid(webui: WebUI, lora: str, work: Path, forget: Callable[[str], str]) -> None:
    """It may have LoRAs with weights besides the grid's own, also where LoRA Block Weight would do it elsewhere."""
    ends = ("", " <lora:other:1:lbw=NONE>", " <lora:other:1:lbw=ALL>")
    files = [str(work / "loras" / f"{lora}.safetensors")]
    wanted = {"loras": files, "prompts": [f"{PROMPT}{end}" for end in ends], "weights": [0.5], "steps": 3, "seed": 1}
    id = forget(webui.post(f"{API}/grids", {**wanted, "cfg_scale": 5, "width": 64, "height": 64})["id"])
    assert webui.ended(id)["state"] == "done"
    cells = [page["cells"][0][0] for page in webui.get(f"{API}/grids/{id}")["pages"]]
    drawn = [digest(Image.open(io.BytesIO(webui.read(f"{API}/{cell}"))).convert("RGB")) for cell in cells]
    assert drawn[0] == drawn[1] == digest(webui.draw(f"{PROMPT} <lora:{lora}:0.5>"))
    assert drawn[2] == digest(webui.draw(f"{PROMPT} <lora:other:1> <lora:{lora}:0.5>"))
    wrong = {**wanted, "prompts": [f"{PROMPT} <lora:other:1:lbw=NOPE>"], "width": 64, "height": 64}
    record = webui.ended(forget(webui.post(f"{API}/grids", wrong)["id"]))
    assert "there is no preset 'NOPE'" in str(record["error"] or record["grid"]), record


def test_nothing_of_ours_failed(webui: WebUI) -> None:
    text = webui.log.read_text(encoding="utf-8", errors="replace")
    assert not [part for part in text.split("Traceback")[1:] if "lora_train" in part[:8000] and "UserError" not in part]
