"""The workbench's routes: on files that are there, with a host that draws; every bad input is a clear error."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from PIL import Image
from safetensors.torch import load_file, save_file

from lora_train.blocks import presets as block_presets
from lora_train.blocks.families import BLOCKS_17
from lora_train.blocks.presets import BUILTIN
from lora_train.grid import record
from lora_train.grid.plan import Grid
from lora_train.grid.sheet import Page, Sheet
from lora_train.host.base import Checkpoint
from lora_train.host.standalone import StandaloneHost
from lora_train.model.load import load_model
from lora_train.ui.panels import blocks as blocks_panel
from lora_train.ui.routes.merges import Merges
from lora_train.ui.routes.tasks import TASKS
from tests.blocks import loras
from tests.grid.conftest import write
from tests.support import Widths, checkpoint

from .conftest import FakeHost
from .web import V1, problems

SHAPES = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (8, 6),
    "lora_unet_mid_block_attentions_0_proj_in": (8, 8, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_proj_in": (8, 8, 1, 1),
}
XL = {"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (8, 8)}
Json = dict[str, Any]


class Drawing(FakeHost):
    """Draws a small picture of one colour, and keeps what it was asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.shots: list[Any] = []
        self.let = threading.Event()
        self.let.set()

    def capabilities(self) -> frozenset[str]:
        return frozenset({"render"})

    def render(self, shot: Any, cancelled: Any) -> Image.Image | None:
        self.shots.append(shot)
        while not self.let.wait(0.01):
            if cancelled():
                return None
        return Image.new("RGB", (shot.width, shot.height), (shot.seed % 256, 0, 0))


@pytest.fixture
def host(manager) -> Iterator[Drawing]:
    manager.host = Drawing(manager.host.root)
    folder = manager.host.lora_dir()
    loras.write(folder / "style" / "Test0.safetensors", loras.state(SHAPES, rank=2, seed=1), {"sshs_model_hash": "abc"})
    loras.write(folder / "BASE.safetensors", loras.state(SHAPES, rank=4, alpha=None, seed=2))
    yield manager.host
    manager.host.let.set()


def mix(*parts: Json, **shot: Any) -> Json:
    return {"loras": list(parts), "shot": {"prompt": "a cat", "width": 64, "height": 64, **shot}}


STYLE = {"name": "style/Test0", "preset": "GP1"}
OWN = {"name": "BASE", "te": -1, "unet": -1, "preset": "GP2"}


def board_of(client, **body: Any) -> str:
    return str(client.post(f"{V1}/blocks/boards", json=body).json()["id"])


def settled(client, board: str) -> Json:
    for _ in range(1500):
        now: Json = client.get(f"{V1}/blocks/boards/{board}/now").json()
        if not now["running"] and not now["waiting"]:
            return now
        time.sleep(0.04)
    pytest.fail("the try doesn't end")


def finished(task: str) -> Json:
    for _ in range(1500):
        found = TASKS.find(task)
        assert found
        if found.state != "running":
            return found.view()
        time.sleep(0.02)
    pytest.fail("the task doesn't end")


# What there is


def test_loras_newest_first_with_what_is_wrong(client, host) -> None:
    whole = (host.lora_dir() / "BASE.safetensors").read_bytes()
    (host.lora_dir() / "growing.safetensors").write_bytes(whole[: len(whole) // 2])
    found = client.get(f"{V1}/blocks/loras").json()
    assert [one["name"] for one in found] == ["growing", "BASE", "style/Test0"]
    assert [one["family"] for one in found] == [None, "SD1.5", "SD1.5"]
    assert "cut off" in found[0]["problem"]


def test_a_lora_block_by_block(client, host) -> None:
    (host.lora_dir() / "style" / "Test0.json").write_text('{"preferred weight": 0.8, "activation text": "x"}', "utf-8")
    told = client.get(f"{V1}/blocks/lora", params={"name": "style/Test0"}).json()
    assert (told["family"], told["blocks"], told["hash"]) == ("SD1.5", ["BASE", "IN01", "M00"], "abc")
    assert (told["present"], told["kinds"]) == ({"BASE": 1, "IN01": 1, "M00": 1}, {"LoRA": 3})
    assert (told["preferred_weight"], told["activation_text"], told["recipe"]) == (0.8, "x", None)
    for name in ("../data/x", "/etc/passwd", "Test1"):
        answer = client.get(f"{V1}/blocks/lora", params={"name": name})
        assert "there is no LoRA" in answer.json()["detail"][0]["what"]


def test_families_name_their_blocks(client, host) -> None:
    told = client.get(f"{V1}/blocks/families").json()
    assert told["SD1.5"]["names17"] == list(BLOCKS_17)
    assert [len(told["SDXL"][name]) for name in ("names12", "names20")] == [12, 20]
    assert told["SD1.5"]["groups"]["64"][:2] == ["IN00", "IN01"]


def test_presets_are_written_renamed_and_removed(client, host) -> None:
    def post(**change: Any) -> Any:
        return client.post(f"{V1}/blocks/presets", json=change)

    file = Path(client.get(f"{V1}/blocks/presets").json()["file"])
    file.write_text("a comment\nBAD:1,2,3,x,5,6,7,8,9,10,11,12,13,14,15,16,17\n", encoding="utf-8")
    told = client.get(f"{V1}/blocks/presets").json()
    assert [(fault["line"], fault["text"][:4]) for fault in told["faults"]] == [(2, "BAD:")]
    assert post(put={"name": "MINE", "numbers": [0.5] * 17}).status_code == 200
    assert post(rename=["MINE", "OURS"]).status_code == 200
    [ours] = [one for one in client.get(f"{V1}/blocks/presets").json()["presets"] if not one["builtin"]]
    assert (ours["name"], ours["numbers"], ours["family"]) == ("OURS", [0.5] * 17, "SD1.5")
    assert file.read_text("utf-8").startswith("a comment\nBAD:1,2"), "other lines stay"
    assert "16 numbers" in str(problems(post(put={"name": "X", "numbers": [1] * 16})))
    assert "is built in" in str(problems(post(remove="GP1")))
    assert post(put={"name": "GP1", "numbers": [1] * 17}).status_code == 200
    assert post(remove="GP1").status_code == 200
    assert post(remove="OURS").status_code == 200
    assert post(remove="OURS").status_code == 422
    assert post().status_code == post(put={"name": "a", "numbers": "1"}).status_code == 422


def test_presets_are_shared_with_lora_block_weight(client, host, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(block_presets, "ROOT", tmp_path / "extensions" / "train-lora")
    scripts = tmp_path / "extensions" / "sd-webui-lora-block-weight" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "lora_block_weight.py").touch()
    (scripts / "lbwpresets.txt").write_text("MINE:" + ",".join(["1"] * 17) + "\n", encoding="utf-8")
    told = client.get(f"{V1}/blocks/presets").json()
    assert (told["file"], told["shared"]) == (str(scripts / "lbwpresets.txt"), True)
    assert "MINE" in {one["name"] for one in told["presets"]}


# Text


def test_what_is_pasted_becomes_a_mix(client, host) -> None:
    def parse(text: str, **more: Any) -> Any:
        return client.post(f"{V1}/blocks/parse", json={"text": text, **more}).json()

    told = parse("a cat, <lora:Test0:0.5:0.8:lbw=GP1>, sits\nNegative prompt: bad\nSteps: 20")
    [one] = told["loras"]
    assert (one["name"], one["te"], one["unet"], one["preset"]) == ("style/Test0", 0.5, 0.8, "GP1")
    assert (one["weights"]["IN01"], one["weights"]["IN03"], told["prompt"]) == (0.6, 0.0, "a cat, sits")
    assert [one["name"] for one in parse("Test0:1:GP1,BASE:-1/0.5:other=0.2:GP2")["loras"]] == ["style/Test0", "BASE"]
    assert parse("BASE:-1/0.5:other=0.2:GP2")["loras"][0]["weights"]["OTHER"] == 0.2
    [bare] = parse(" ".join(["0.5"] * 12))["loras"]
    assert (bare["name"], bare["weights"].keys() >= {"IN04", "OUT05"}, "IN09" in bare["weights"]) == (None, True, False)
    assert parse("MINE:" + ",".join(["1"] * 26))["loras"][0]["preset"] == "MINE"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<lora:Test0:1:lbw=GP9>", "there is no preset 'GP9'"),
        ("<lora:Tset0:1>", "there is no LoRA 'Tset0'"),
        (",".join(["1"] * 16), "16 numbers where"),
        ("Test0:1:" + ",".join(["1"] * 16), "16 numbers where"),
        ("X:" + ",".join(["R"] * 17), "changes from picture to picture"),
        ("", "nothing to read"),
    ],
)
def test_what_can_not_be_read_is_said(client, host, text, said) -> None:
    assert said in str(problems(client.post(f"{V1}/blocks/parse", json={"text": text})))


def test_a_list_for_another_family_is_an_error(client, host) -> None:
    body = {"text": ",".join(["1"] * 12), "family": "SD1.5"}
    assert "12 numbers where SD1.5 has 17" in str(problems(client.post(f"{V1}/blocks/parse", json=body)))


def test_a_mix_as_text(client, host) -> None:
    told = client.post(f"{V1}/blocks/text", json={"mix": mix(STYLE, {**OWN, "hidden": True}, {"name": "BASE"})}).json()
    assert told["recipe"] == "style/Test0:1:GP1,BASE:1"
    assert told["numbers"][1] is None
    assert told["prompt"].startswith("a cat, <lora:Test0:1:lbw=1,0.6,")
    assert told["prompt"].endswith("<lora:BASE:1>")
    assert told["preset_lines"].splitlines()[0].startswith("GP1:1,0.6,")


# Advice


def test_advice_moves_both_loras(client, host) -> None:
    listed = client.get(f"{V1}/blocks/advice").json()
    assert len(listed["symptoms"]) == 6
    body = {"symptom": "hands", "mix": mix(STYLE, OWN), "locked": [[0, "IN05"]]}
    told = client.post(f"{V1}/blocks/advice", json=body).json()
    moved = {(one["lora"], one["block"]): (one["from"], one["to"]) for one in told["changes"]}
    assert moved[0, "IN04"] == (0.9, 0.8)
    assert moved[1, "IN04"] == (0.1, 0.05)
    assert (0, "IN05") not in moved
    assert (told["held"], told["next"]) == ({"GP1 IN05": "locked"}, None)
    swapped = {**body, "mix": mix(OWN, STYLE), "locked": []}
    assert {one["lora"] for one in client.post(f"{V1}/blocks/advice", json=swapped).json()["changes"]} == {0, 1}
    told = client.post(f"{V1}/blocks/advice", json={"symptom": "chaotic", "mix": mix(STYLE, OWN), "step": 1}).json()
    assert [(one["block"], one["from"], one["to"]) for one in told["changes"]] == [(None, 1.0, 0.8)]
    assert told["next"] == 2


def test_advice_without_a_lora_is_an_error(client, host) -> None:
    for parts, said in (((OWN,), "no LoRA to change"), ((), "no LoRA to change"), ((STYLE,), "no symptom")):
        body = {"symptom": "hands" if said != "no symptom" else "x", "mix": mix(*parts)}
        assert said in str(problems(client.post(f"{V1}/blocks/advice", json=body)))


# Boards and tries


def test_a_try_from_slider_to_picture(client, host) -> None:
    board = board_of(client, name="mine")
    answer = client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(STYLE, OWN, seeds=[5, 6])}).json()
    assert answer["known"] is False
    now = settled(client, board)
    assert now["last"]["state"] == "done"
    [told] = client.get(f"{V1}/blocks/boards/{board}").json()["tries"]
    assert told["mix"]["loras"][0]["weights"]["IN01"] == 0.6, "the numbers themselves, whatever GP1 becomes"
    for address, seed in zip(told["pictures"], (5, 6), strict=True):
        found = client.get(f"{V1}/{address}")
        assert (found.headers["content-type"], "immutable" in found.headers["cache-control"]) == ("image/png", True)
        assert [shot.seed for shot in host.shots if shot.seed == seed] == [seed]
    assert now["latest"] == told["pictures"]
    first, second = host.shots[0].loras
    assert (first.path.stem, first.te, first.weights["IN01"], first.weights["IN03"]) == ("Test0", 1.0, 0.6, 0.0)
    assert (second.unet, second.weights["BASE"]) == (-1.0, 0.3)
    assert host.shots[0].prompt == "a cat"


def test_every_prompt_is_drawn_with_every_seed(client, host) -> None:
    board = board_of(client)
    tries = f"{V1}/blocks/boards/{board}/tries"
    scene = {"prompts": ["a dog,\non grass", "a bird"], "seeds": [5, 6]}
    client.post(tries, json={"mix": mix(STYLE, **scene)})
    settled(client, board)
    wanted = [(prompt, seed) for prompt in ("a cat", "a dog,\non grass", "a bird") for seed in (5, 6)]
    assert [(shot.prompt, shot.seed) for shot in host.shots] == wanted
    [told] = client.get(f"{V1}/blocks/boards/{board}").json()["tries"]
    texts = [Image.open(BytesIO(client.get(f"{V1}/{address}").content)).text for address in told["pictures"]]
    assert [text["parameters"].startswith(prompt) for text, (prompt, _) in zip(texts, wanted, strict=True)] == [
        True
    ] * 6
    client.post(tries, json={"mix": mix(STYLE, prompts=["a bird"], seeds=[6])})
    settled(client, board)
    assert len(host.shots) == 6, "a cat and a bird with seed 6 were drawn before"
    many = client.post(tries, json={"mix": mix(STYLE, prompts=["b"] * 8, seeds=[1, 2])})
    assert "more than 16 pictures" in many.text and problems(many).keys() == {"mix.shot.seeds"}


def test_a_board_of_before_there_were_several_prompts(client, host) -> None:
    board = board_of(client)
    client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(STYLE)})
    settled(client, board)
    file = host.data_dir() / "boards" / board / "board.json"
    old = json.loads(file.read_text(encoding="utf-8"))
    for one in (old["mix"], old["tries"][0]["mix"]):
        del one["shot"]["prompts"]
    file.write_text(json.dumps(old), encoding="utf-8")
    [told] = client.get(f"{V1}/blocks/boards/{board}").json()["tries"]
    again = client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": told["mix"], "parent": 1}).json()
    assert again["known"] and again["try"]["id"] == 1


def test_what_was_drawn_is_answered_from_the_history(client, host) -> None:
    board = board_of(client)
    tries = f"{V1}/blocks/boards/{board}/tries"
    weights = dict(zip(BLOCKS_17, BUILTIN["GP1"], strict=True))
    client.post(tries, json={"mix": mix(STYLE)})
    settled(client, board)
    same = {**STYLE, "preset": None, "weights": weights}
    again = client.post(tries, json={"mix": mix(same, {**OWN, "hidden": True})}).json()
    assert (again["known"], again["try"]["id"], len(host.shots)) == (True, 1, 1)
    for other in (mix({**same, "te": 0.9}), mix(same, steps=21), mix(same, prompt="a dog")):
        assert client.post(tries, json={"mix": other}).json()["known"] is False
        settled(client, board)
    assert len(host.shots) == 4
    loras.write(host.lora_dir() / "style" / "Test0.safetensors", loras.state(SHAPES, rank=2, seed=7))
    assert client.post(tries, json={"mix": mix(STYLE)}).json()["known"] is False, "another file of the same name"
    settled(client, board)


def test_the_newest_state_wins_and_reading_never_waits(client, host) -> None:
    board = board_of(client)
    host.let.clear()
    ids = [
        client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix({**STYLE, "te": te})}).json()["try"]["id"]
        for te in (0.1, 0.2, 0.3)
    ]
    for _ in range(2000):
        now = client.get(f"{V1}/blocks/boards/{board}/now").json()
        if now["running"] and now["running"]["id"] == ids[2]:
            break
        time.sleep(0.01)
    assert (now["running"]["id"], now["waiting"]) == (ids[2], None)
    began = time.monotonic()
    assert client.get(f"{V1}/blocks/boards/{board}").json()["tries"] == []
    assert time.monotonic() - began < 2
    client.post(f"{V1}/blocks/boards/{board}/stop", json={})
    settled(client, board)
    assert client.get(f"{V1}/blocks/boards/{board}").json()["tries"] == []


def test_notes_stars_branches_removing_and_undo(client, host) -> None:
    board = board_of(client, name="mine")
    tries = f"{V1}/blocks/boards/{board}/tries"
    client.post(tries, json={"mix": mix(STYLE)})
    settled(client, board)
    client.post(tries, json={"mix": mix({**STYLE, "te": 0.5, "unet": 0.5}), "parent": 1})
    settled(client, board)
    said = client.post(f"{tries}/1", json={"note": "good", "star": True}).json()["try"]
    assert (said["note"], said["star"]) == ("good", True)
    told = client.get(f"{V1}/blocks/boards/{board}").json()["tries"]
    assert [(one["id"], one["parent"], one["label"]) for one in told] == [(1, None, ""), (2, 1, "style/Test0 1→0.5")]
    left = client.post(f"{tries}/1/remove", json={}).json()
    assert [(one["id"], one["parent"]) for one in left["tries"]] == [(2, None)]
    back = client.post(f"{V1}/blocks/boards/{board}/undo", json={}).json()
    assert [(one["id"], one["note"]) for one in back["tries"]] == [(1, "good"), (2, "")]
    assert client.post(f"{V1}/blocks/boards/{board}/rename", json={"name": "ours"}).json()["name"] == "ours"
    assert client.post(f"{V1}/blocks/boards/{board}/remove", json={}).json() == []
    assert client.get(f"{V1}/blocks/boards/{board}").status_code == 404
    assert client.post(f"{V1}/blocks/boards/{board}/undo", json={}).json()["name"] == "ours"
    assert client.post(f"{tries}/9", json={"star": True}).status_code == 422
    for gone in ("other", "..%2f..", ".removed"):
        assert client.get(f"{V1}/blocks/boards/{gone}").status_code == 404


def nan(folder: Path) -> None:
    state = loras.state(SHAPES, rank=2)
    state["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"][0] = torch.nan
    loras.write(folder / "bad.safetensors", state)


def half(folder: Path) -> None:
    whole = (folder / "BASE.safetensors").read_bytes()
    (folder / "bad.safetensors").write_bytes(whole[: len(whole) // 2])


def another_family(folder: Path) -> None:
    loras.write(folder / "bad.safetensors", loras.state(XL, rank=2))


def flux(folder: Path) -> None:
    loras.write(folder / "bad.safetensors", loras.state({"lora_unet_double_blocks_0_img_attn_proj": (8, 8)}, rank=2))


def nothing(folder: Path) -> None:
    """A file that is fine."""
    loras.write(folder / "bad.safetensors", loras.state(SHAPES, rank=2))


@pytest.mark.parametrize(
    ("make", "part", "said"),
    [
        (nothing, {"preset": "GP9"}, "there is no preset 'GP9'"),
        (nothing, {"weights": dict.fromkeys(BLOCKS_17[:16], 1)}, "there is no weight for OUT11"),
        (nothing, {"weights": {**dict.fromkeys(BLOCKS_17, 1), "IN1": 1}}, "there is no such block"),
        (nothing, {"name": "missing"}, "there is no LoRA 'missing'"),
        (nothing, {"name": "../data/bad"}, "there is no LoRA"),
        (nothing, {"te": "much"}, "is not a number"),
        (nan, {}, "NaN or infinite values"),
        (half, {}, "cut off"),
        (another_family, {}, "these LoRAs are for different models"),
        (flux, {}, "this LoRA is for FLUX"),
    ],
)
def test_what_others_get_silently_wrong_is_an_error(client, host, make, part, said) -> None:
    make(host.lora_dir())
    wrong = mix(STYLE, {"name": "bad", **part})
    board = board_of(client)
    answers = [
        client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": wrong}),
        client.post(f"{V1}/blocks/bake", json={"mix": wrong, "name": "out"}),
    ]
    for answer in answers:
        if answer.status_code == 200:
            ended = finished(answer.json()["task"])
            assert (ended["state"], said in ended["error"]) == ("failed", True)
        else:
            assert said in answer.text
            problems(answer)
    assert answers[0].status_code == 422
    assert host.shots == []
    assert not (host.lora_dir() / "out.safetensors").exists()


def test_names_with_commas_and_spaces_ranks_and_missing_alpha(client, host) -> None:
    """What is an error elsewhere and right here."""
    loras.write(host.lora_dir() / "a, b: c.safetensors", loras.state(SHAPES, rank=3, alpha=None, seed=5))
    parts = ({"name": "a, b: c", "unet": 0.5, "te": 0.5}, {**OWN, "preset": None})
    board = board_of(client)
    client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(*parts)})
    assert settled(client, board)["last"]["state"] == "done"
    body = {"mix": mix(*parts), "name": "out", "precision": "float"}
    done = finished(client.post(f"{V1}/blocks/bake", json=body).json()["task"])
    assert (done["state"], done["done"], done["total"]) == ("done", 3, 3)
    states = [load_file(host.lora_dir() / f"{name}.safetensors") for name in ("a, b: c", "BASE")]
    wanted = {name: 0.5 * loras.dense(states[0], name) - loras.dense(states[1], name) for name in SHAPES}
    assert loras.relative_error(host.lora_dir() / "out.safetensors", wanted) < 1e-6


def test_a_lora_for_layers_that_the_checkpoint_lacks(client, host, tmp_path, monkeypatch) -> None:
    base = checkpoint(tmp_path / "narrow.safetensors", Widths(text_layers=2))
    monkeypatch.setattr(host, "checkpoint", lambda: Checkpoint(base, "narrow"))
    loras.write(
        host.lora_dir() / "deep.safetensors", loras.state({"lora_te_text_model_encoder_layers_7_mlp_fc1": (8, 6)})
    )
    board = board_of(client)
    answer = client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix({"name": "deep"})})
    assert "narrow.safetensors lacks 1 of its 1 layers: lora_te_text_model_encoder_layers_7_mlp_fc1" in answer.text
    loras.write(host.lora_dir() / "xl.safetensors", loras.state(XL, rank=2))
    answer = client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix({"name": "xl"})})
    assert "this LoRA is for SDXL, and narrow.safetensors is SD1.5" in answer.text
    assert host.shots == []
    save_file({"unet.weight": torch.zeros(2)}, base)
    client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix({"name": "deep"})})
    assert settled(client, board)["last"]["state"] == "done", "of a form that isn't known here"


def test_a_host_that_can_not_draw_says_so(client, host, monkeypatch) -> None:
    monkeypatch.setattr(host, "capabilities", frozenset)
    board = board_of(client)
    answer = client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(STYLE)})
    assert "can't draw single pictures" in problems(answer)["mix"]


def test_loras_in_the_prompt_are_refused(client, host) -> None:
    board = board_of(client)
    body = {"mix": mix(STYLE, prompt="a cat <lora:BASE:1>")}
    answer = client.post(f"{V1}/blocks/boards/{board}/tries", json=body)
    assert problems(answer).keys() == {"mix.shot.prompt"}


# From a grid


def test_a_cell_of_a_grid_opens_as_a_board(client, manager, host) -> None:
    tile = Image.new("RGB", (64, 64), "blue")
    file = host.lora_dir() / "style" / "Test0.safetensors"
    plan = Grid((str(file),), ("a cat", "a dog"), (0.5, 1.0), "bad", 7, 12, 5.0, "DDIM", 64, 64, 2)
    pages = tuple(Page(tile, ((tile, tile),)) for _ in plan.prompts)
    record.save(manager.job, plan, Sheet(pages), name="run", checkpoint="m")
    cell = {"job": "job-1", "row": 0, "column": 0, "page": 1}
    told = client.post(f"{V1}/blocks/boards", json={"from": cell}).json()
    [part] = told["mix"]["loras"]
    assert (part["name"], part["te"], part["unet"]) == ("style/Test0", 0.5, 0.5)
    shot = told["mix"]["shot"]
    assert [
        shot[key] for key in ("prompt", "negative_prompt", "seeds", "steps", "cfg_scale", "sampler", "clip_skip")
    ] == [*("a dog", "bad", [7], 12, 5.0, "DDIM", 2)]
    [first] = told["tries"]
    assert (first["state"], first["label"]) == ("done", "grid")
    assert client.get(f"{V1}/{first['pictures'][0]}").status_code == 200
    for wrong in ({**cell, "row": 7}, {**cell, "column": 2}, {**cell, "page": 2}, {"job": "job-1"}):
        assert client.post(f"{V1}/blocks/boards", json={"from": wrong}).status_code == 422
    assert client.post(f"{V1}/blocks/boards", json={"from": {**cell, "job": "other"}}).status_code == 404


def test_a_cell_whose_file_is_elsewhere_says_what_to_do(client, manager, host, tmp_path) -> None:
    file = loras.write(tmp_path / "output" / "run.safetensors", loras.state(SHAPES, rank=2))
    tile = Image.new("RGB", (64, 64))
    record.save(manager.job, Grid((str(file),), ("a",), (1.0,), width=64, height=64), Sheet((Page(tile, ((tile,),)),)))
    cell = {"job": "job-1", "row": 0, "column": 0}
    answer = client.post(f"{V1}/blocks/boards", json={"from": cell})
    assert "not in the LoRA folder" in str(problems(answer))
    record.use(manager.job, 0, 0, lora_dir=host.lora_dir())
    assert client.post(f"{V1}/blocks/boards", json={"from": cell}).json()["mix"]["loras"][0]["name"] == "run"


# Files


def test_a_bake_ends_while_a_training_has_the_host(client, host, monkeypatch) -> None:
    """To list the LoRAs anew has to wait for it, and every other task would wait for the bake."""
    over = threading.Event()
    monkeypatch.setattr("lora_train.ui.routes.base._PATIENCE", 0.01)
    monkeypatch.setattr(host, "refresh_loras", lambda: over.wait(60))
    try:
        body = {"mix": mix(STYLE), "name": "baked", "limit": {"rank": 2}}
        assert finished(client.post(f"{V1}/blocks/bake", json=body).json()["task"])["state"] == "done"
    finally:
        over.set()


def test_a_bake_has_its_report_card_preview_and_recipe(client, host) -> None:
    board = board_of(client)
    client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(STYLE)})
    settled(client, board)
    parts = ({**STYLE, "te": 0.5, "unet": 1.5}, OWN)
    body = {
        "mix": mix(*parts),
        "name": "baked/out",
        "limit": {"rank": 2},
        "activation_text": "cat",
        "preview_try": {"board": board, "try": 1},
    }
    done = finished(client.post(f"{V1}/blocks/bake", json=body).json()["task"])
    report = done["result"]["report"]
    assert [block["block"] for block in report["blocks"]] == ["BASE", "IN01", "M00"]
    assert "modules" not in report, "every look at the status carries it"
    layers = client.get(f"{V1}/blocks/reports/{done['id']}").json()["modules"]
    assert [(layer["name"], layer["rank"], layer["full_rank"]) for layer in layers] == [
        (n, 2, 6) for n in sorted(SHAPES)
    ]
    assert client.get(f"{V1}/blocks/reports/bake-0").status_code == 404
    assert report["total"]["relative_error"] > 0
    out = host.lora_dir() / "baked" / "out.safetensors"
    card = json.loads(out.with_suffix(".json").read_text("utf-8"))
    assert (card["preferred weight"], card["activation text"]) == (1.0, "cat")
    assert Image.open(out.with_suffix(".png")).size == (64, 64)
    assert host.refreshed == 1
    opened = client.get(f"{V1}/blocks/recipe", params={"name": "baked/out"}).json()
    told = [(p["name"], p["te"], p["unet"], p["preset"], p["weights"]["IN01"]) for p in opened["mix"]["loras"]]
    assert told == [("style/Test0", 0.5, 1.5, "GP1", 0.6), ("BASE", -1.0, -1.0, "GP2", 0.1)]
    assert (opened["limit"], opened["missing"], opened["changed"]) == ({"rank": 2}, [], [])
    assert client.get(f"{V1}/blocks/lora", params={"name": "baked/out"}).json()["recipe"] == opened["text"]
    (host.lora_dir() / "BASE.safetensors").unlink()
    loras.write(host.lora_dir() / "style" / "Test0.safetensors", loras.state(SHAPES, rank=2, seed=9))
    opened = client.get(f"{V1}/blocks/recipe", params={"name": "baked/out"}).json()
    assert (opened["missing"], opened["changed"]) == (["BASE"], ["style/Test0"])
    assert client.get(f"{V1}/blocks/recipe", params={"name": "Test0"}).status_code == 422


def test_a_picture_that_was_there_stays_at_a_bake_of_a_new_name(client, host) -> None:
    board = board_of(client)
    client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(STYLE)})
    settled(client, board)
    mine = host.lora_dir() / "new.png"
    Image.new("RGB", (5, 5)).save(mine)
    before = mine.read_bytes()
    body = {"mix": mix(STYLE), "name": "new", "preview_try": {"board": board, "try": 1}}
    told = finished(client.post(f"{V1}/blocks/bake", json=body).json()["task"])["result"]
    assert (mine.read_bytes(), told["picture_kept"]) == (before, "new.png")
    assert not [path for path in told["written"] if path.endswith(".png")]
    told = finished(client.post(f"{V1}/blocks/bake", json={**body, "overwrite": True}).json()["task"])["result"]
    assert (Image.open(mine).size, told["picture_kept"]) == ((64, 64), None)
    listed = {one["name"]: one["baked"] for one in client.get(f"{V1}/blocks/loras").json()}
    assert listed["new"] and not listed["BASE"]


def test_an_open_host_names_no_folder(client, manager, host, tmp_path, monkeypatch) -> None:
    """What a bake, a merge, a measurement and an error say, while strangers may read it."""
    monkeypatch.setattr(host, "open_to_all", True)
    place = str(tmp_path)
    (host.lora_dir() / "cut.safetensors").write_bytes((host.lora_dir() / "BASE.safetensors").read_bytes()[:-9])
    answers = [
        client.post(f"{V1}/merge", json={"recipe": "BASE:1", "name": "merged"}),
        client.post(f"{V1}/merge", json={"recipe": "cut:1", "name": "merged2"}),
        client.post(f"{V1}/blocks/text", json={"mix": mix({"name": "cut"})}),
        client.post(f"{V1}/blocks/compare", json={"names": ["cut", "BASE"]}),
        client.get(f"{V1}/blocks/lora", params={"name": "cut"}),
        client.get(f"{V1}/blocks/recipe", params={"name": "BASE"}),
    ]
    for path, body in (
        ("bake", {"mix": mix(STYLE), "name": "below/baked"}),
        ("resize", {"name": "BASE", "out": "smaller", "limit": {"rank": 1}}),
    ):
        task = client.post(f"{V1}/blocks/{path}", json=body).json()["task"]
        assert finished(task)["state"] == "done"
        answers += [client.get(f"{V1}/blocks/reports/{task}"), client.get(f"{V1}/status")]
    made = {"kind": "effects", "mix": [{"name": "BASE", "path": place + "/loras/BASE.safetensors"}], "blocks": []}
    (manager.job / "measure.json").write_text(json.dumps(made), encoding="utf-8")
    manager.now |= {"id": "job-1", "kind": "effects", "state": "done", "error": f"{place}/loras/BASE.safetensors: gone"}
    answers.append(client.get(f"{V1}/blocks/measures/job-1"))
    for answer in answers:
        assert place not in answer.text.replace("\\\\", "\\"), answer.text
    assert answers[0].json()["path"] == "merged.safetensors"
    assert answers[1].json()["detail"][0]["where"] == "cut.safetensors"
    assert answers[-1].json()["result"]["mix"] == [{"name": "BASE"}]
    form = (Merges(manager), "BASE:1,cut:1", "form", "fp16", "exact", "", False, "")
    shown = blocks_panel.told(lambda: blocks_panel._bake(*form))
    assert "cut.safetensors" in shown and place not in shown
    monkeypatch.setattr(host, "open_to_all", False)
    assert place in client.post(f"{V1}/merge", json={"recipe": "BASE:1", "name": "merged3"}).json()["path"]


def test_a_bake_overwrites_only_if_told_and_stays_in_the_folder(client, host) -> None:
    body = {"mix": mix(STYLE), "name": "BASE"}
    before = (host.lora_dir() / "BASE.safetensors").read_bytes()
    assert client.post(f"{V1}/blocks/bake", json=body).status_code == 409
    assert (host.lora_dir() / "BASE.safetensors").read_bytes() == before
    for name in ("../x", "", "/tmp/x"):
        assert problems(client.post(f"{V1}/blocks/bake", json={**body, "name": name})).keys() == {"name"}
    done = finished(client.post(f"{V1}/blocks/bake", json={**body, "overwrite": True}).json()["task"])
    assert done["state"] == "done"
    itself = finished(
        client.post(f"{V1}/blocks/bake", json={**body, "name": "style/Test0", "overwrite": True}).json()["task"]
    )
    assert "would overwrite 'Test0'" in itself["error"]


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"limit": {"rank": 0}}, "rank"),
        ({"limit": {"rank": 1, "error": 0.1}}, "limit"),
        ({"limit": {"error": 1e-9}}, "target error"),
        ({"limit": {"size": 1}}, "size"),
        ({"precision": "int"}, "precision"),
        ({"preview_try": {"board": "x", "try": 1}}, "preview_try"),
        ({"mix": {"loras": []}}, "mix"),
        ({"against": "none"}, "checkpoint"),
    ],
)
def test_a_wrong_bake_says_where(client, host, more, place) -> None:
    answer = client.post(f"{V1}/blocks/bake", json={"mix": mix(STYLE), "name": "x", **more})
    assert place in problems(answer)


def test_the_merge_route_takes_a_preset_file_as_it_is(client, host) -> None:
    text = "my presets\nMINE:" + ",".join(["1"] * 17) + "\nBAD:1,2,3\nGP1:1,x" + ",1" * 15
    body = {"recipe": "BASE:0.5/1:other=0:MINE", "name": "x", "presets": text}
    assert client.post(f"{V1}/merge", json=body).status_code == 200
    answer = client.post(f"{V1}/merge", json={**body, "recipe": "BASE:1:GP1", "name": "y"})
    assert "preset 'GP1' can't be used" in answer.text
    assert client.post(f"{V1}/merge", json={**body, "name": "z", "other": "x"}).status_code == 422
    assert client.post(f"{V1}/merge", json={**body, "name": "z", "presets": {"BAD": [1, 2]}}).status_code == 422


def test_one_lora_at_another_rank(client, host) -> None:
    (host.lora_dir() / "BASE.json").write_text('{"preferred weight": 0.7}', "utf-8")
    body = {"name": "BASE", "out": "small", "limit": {"rank": 1}}
    done = finished(client.post(f"{V1}/blocks/resize", json=body).json()["task"])
    assert done["result"]["report"]["total"]["rank_max"] == 1
    assert json.loads((host.lora_dir() / "small.json").read_text("utf-8"))["preferred weight"] == 0.7
    assert "limit" in problems(client.post(f"{V1}/blocks/resize", json={**body, "limit": {}, "out": "other"}))
    assert client.post(f"{V1}/blocks/resize", json=body).status_code == 409


def test_a_merge_into_a_checkpoint(client, host, tmp_path, monkeypatch) -> None:
    (tmp_path / "models").mkdir()
    base = checkpoint(tmp_path / "models" / "narrow.safetensors", Widths(text_layers=2))
    monkeypatch.setattr(host, "checkpoint", lambda: Checkpoint(base, "narrow"))
    write(host.lora_dir() / "fits.safetensors", load_model(base), 2, 1)
    body = {"mix": mix({"name": "fits", "preset": "GP1"}), "name": "merged"}
    done = finished(client.post(f"{V1}/blocks/into_checkpoint", json=body).json()["task"])
    assert (done["state"], done["done"] > 100, done["error"]) == ("done", True, None)
    assert (tmp_path / "models" / "merged.safetensors").stat().st_size == pytest.approx(base.stat().st_size, rel=0.1)
    assert client.post(f"{V1}/blocks/into_checkpoint", json=body).status_code == 409
    assert client.post(f"{V1}/blocks/into_checkpoint", json={**body, "checkpoint": "x"}).status_code == 422
    host.open_to_all = True
    assert client.post(f"{V1}/blocks/into_checkpoint", json={**body, "name": "y"}).status_code == 403


def test_two_loras_block_by_block(client, host) -> None:
    def compare(**body: Any) -> Any:
        return client.post(f"{V1}/blocks/compare", json={"names": ["style/Test0", "style/Test0"], **body})

    told = compare().json()
    assert set(told["norms"][0]) == set(told["cosine"]) == {"BASE", "IN01", "M00"}
    assert told["cosine"]["M00"] == pytest.approx(1)
    state = load_file(host.lora_dir() / "style" / "Test0.safetensors")
    wanted = loras.dense(state, "lora_unet_mid_block_attentions_0_proj_in").norm().item()
    assert told["norms"][0]["M00"] == pytest.approx(wanted, rel=1e-6)
    [judged] = compare(weights=[{"M00": 1}, {"M00": -0.5}]).json()["subtraction"][-1:]
    assert (judged["block"], judged["left"], judged["verdict"]) == ("M00", pytest.approx(0.5), "cancels")
    loras.write(host.lora_dir() / "xl.safetensors", loras.state(XL, rank=2))
    assert "for SDXL" in compare(names=["BASE", "xl"]).text
    for wrong in ({"names": ["BASE"]}, {"names": 3}, {"weights": [1, 2]}, {"weights": {}}):
        assert compare(**wrong).status_code == 422


# On a real host


def test_baked_is_what_was_seen_live(client, manager, tmp_path) -> None:
    """On a real checkpoint: two LoRAs with strengths and weights of their own give the same picture as the baked file,
    within its rounding; weights that are all 0 give the checkpoint's own.
    """
    torch.set_num_threads(1)
    base = checkpoint(tmp_path / "narrow.safetensors", Widths(text_layers=2))
    manager.host = StandaloneHost(base, tmp_path / "loras", tmp_path / "data")
    manager.host.lora_dir().mkdir(exist_ok=True)
    model = load_model(base)
    write(manager.host.lora_dir() / "a.safetensors", model, 2, 1)
    state = load_file(manager.host.lora_dir() / "a.safetensors")
    g = torch.Generator().manual_seed(1)
    other = {key: torch.randn(one.shape, generator=g).half() * 0.1 if one.dim() else one for key, one in state.items()}
    loras.write(manager.host.lora_dir() / "b.safetensors", other)
    board = board_of(client)
    style = {"name": "a", "te": 0.6, "unet": 0.9, "preset": "GP1"}
    own = {"name": "b", "te": -1, "unet": -1, "preset": "GP2"}
    done = finished(client.post(f"{V1}/blocks/bake", json={"mix": mix(style, own), "name": "baked"}).json()["task"])
    assert done["result"]["report"]["total"]["relative_error"] < 1e-3
    silent = {"name": "a", "weights": dict.fromkeys(BLOCKS_17, 0)}
    live, baked, bare, off = (
        drawn(client, board, *parts) for parts in ((style, own), ({"name": "baked"},), (), (silent,))
    )
    assert (live - baked).abs().mean() < 0.5
    assert (live - bare).abs().mean() > 5
    assert torch.equal(bare, off)
    assert len(client.get(f"{V1}/blocks/boards/{board}").json()["tries"]) == 3, "none and a silent one are one"


def drawn(client, board: str, *parts: Json) -> torch.Tensor:
    """Levels of the picture of a mix."""
    told = client.post(f"{V1}/blocks/boards/{board}/tries", json={"mix": mix(*parts, steps=2)}).json()["try"]
    assert settled(client, board)["last"]["error"] is None
    address = f"{V1}/blocks/boards/{board}/pictures/{told['id']}/0.png"
    with Image.open(BytesIO(client.get(address).content)) as picture:
        return torch.tensor(list(picture.convert("RGB").tobytes())).float()
