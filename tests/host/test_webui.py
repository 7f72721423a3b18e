"""The WebUI host against stand-ins for `modules.*`; tests/webui runs it in a real one."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.errors import UserError
from lora_train.host import current
from lora_train.host.base import TagOptions
from lora_train.host.webui import WebUIHost, inside, picture


def test_the_host_is_found(webui: SimpleNamespace, tmp_path: Path) -> None:
    host = current()
    assert isinstance(host, WebUIHost)
    chosen = host.checkpoint()
    assert chosen is not None
    assert (chosen.path, chosen.title, chosen.sha256) == (tmp_path / "m.safetensors", "m [12]", "12")
    assert (chosen.vae, chosen.clip_skip) == (None, 2)
    assert host.environment() == {"CUDA_VISIBLE_DEVICES": ""}
    assert host.lora_dir() == tmp_path
    assert host.restricted() is False


def test_a_training_sees_the_gpu_that_the_webui_was_told(webui: SimpleNamespace, request: Any) -> None:
    flags = webui.shared.cmd_opts
    flags.use_cpu, flags.device_id = [], "1"
    assert WebUIHost().environment() == {"CUDA_VISIBLE_DEVICES": "1"}
    flags.device_id = None
    assert WebUIHost().environment() == {}
    webui = request.getfixturevalue("forge")
    assert WebUIHost().environment() == {}
    webui.args.args.always_cpu = True
    assert WebUIHost().environment() == {"CUDA_VISIBLE_DEVICES": ""}


def test_outside_of_a_webui() -> None:
    with pytest.raises(UserError, match="no WebUI"):
        current()


def test_no_checkpoint_at_all(webui: SimpleNamespace) -> None:
    def none() -> None:
        raise FileNotFoundError("No checkpoints found")

    webui.sd_models.select_checkpoint = none
    assert WebUIHost().checkpoint() is None
    webui.sd_models.select_checkpoint = lambda: None  # Forge
    assert WebUIHost().checkpoint() is None
    webui.sd_models.checkpoints_list.clear()
    webui.sd_models.select_checkpoint = lambda: pytest.fail("Forge prints a page about it")
    assert WebUIHost().checkpoint() is None


def test_forges_own_version(forge: SimpleNamespace) -> None:
    assert WebUIHost().name == "Stable Diffusion WebUI Forge 2.0.1"


def test_forge_applies_a_replaced_lora_anew(forge: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names for "nothing applied" are those of an empty list, which would be left as they are."""
    loaders = [SimpleNamespace(loaded_hash=f"[('cat', {n})]") for n in range(2)]
    unet, text = (SimpleNamespace(lora_loader=loader) for loader in loaders)
    parts = SimpleNamespace(unet=unet, clip=SimpleNamespace(patcher=text))
    model = SimpleNamespace(current_lora_hash="[('cat', 1)]", forge_objects_original=parts)
    forge.sd_models.model_data.sd_model = model
    monkeypatch.setitem(sys.modules, "networks", SimpleNamespace(list_available_networks=lambda: None))
    WebUIHost().refresh_loras()
    assert model.current_lora_hash not in ("[('cat', 1)]", str([]))
    assert [loader.loaded_hash in ("[('cat', 0)]", "[('cat', 1)]", str([])) for loader in loaders] == [False, False]


def test_the_vae_is_the_one_that_the_webui_resolves(webui: SimpleNamespace, tmp_path: Path) -> None:
    vae = tmp_path / "nice.vae.safetensors"
    asked = []
    webui.sd_vae.resolve_vae = lambda file: asked.append(file) or SimpleNamespace(tuple=lambda: (str(vae), "settings"))
    checkpoint = WebUIHost().checkpoint()
    assert checkpoint and checkpoint.vae is None  # it is named, but was deleted
    vae.touch()
    [checkpoint] = WebUIHost().checkpoints()
    assert checkpoint.vae == vae
    assert asked[-1] == str(tmp_path / "m.safetensors")


def test_forges_vae_is_among_its_modules(forge: SimpleNamespace, tmp_path: Path) -> None:
    files = [tmp_path / folder / "file.safetensors" for folder in ("text_encoder", "VAE", "mine", "VAE/older")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = []
    for chosen in ([], [files[0]], [files[3], files[0], files[1]], [files[2]]):
        forge.shared.opts.forge_additional_modules = [str(file) for file in chosen]
        checkpoint = WebUIHost().checkpoint()
        assert checkpoint is not None
        found.append(checkpoint.vae)
    assert found == [None, None, files[1], None]
    forge.shared.cmd_opts.vae_dir = str(tmp_path / "mine")
    checkpoint = WebUIHost().checkpoint()
    assert checkpoint and checkpoint.vae == files[2]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("None", ""),
        ("zh_CN", "zh-CN"),
        ("zh-Hans (Stable)", "zh-CN"),
        ("Chinese (Simplified)", "zh-CN"),
        ("简体中文", "zh-CN"),
        ("zh_TW", ""),
        ("en_US", "en"),
        ("ja_JP", ""),
    ],
)
def test_language(webui: SimpleNamespace, name: str, language: str) -> None:
    webui.shared.opts.localization = name
    assert WebUIHost().language() == language


def test_no_text_states_stay_of_a_file_that_was_replaced(webui: SimpleNamespace) -> None:
    """Neither the WebUI's nor those of our own pictures."""
    kept = [("a cat", "states"), "states"]
    webui.processing.StableDiffusionProcessingTxt2Img.cached_c = kept
    ours = picture._texts["cached_c"]
    ours[:] = kept
    WebUIHost().refresh_loras()
    assert kept == ours == [None, None]


def test_busy_in_words(webui: SimpleNamespace) -> None:
    found = []
    for job in ("", "task(abc)", "Train LoRA: deepbooru"):
        webui.shared.state.job = job
        found.append(WebUIHost().busy())
    assert found == ["", "drawing", "deepbooru"]


def weights(model: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()


@pytest.fixture
def on_gpu(webui: SimpleNamespace) -> list[str]:
    """A1111 with its model on a GPU; what is moved, in order."""
    moves: list[str] = []
    webui.devices.device = torch.device("cuda")
    webui.shared.sd_model.lowvram = True  # counts as being on the GPU
    webui.sd_models.send_model_to_cpu = lambda model: (moves.append("cpu"), model.to("cpu"))
    webui.sd_models.send_model_to_device = lambda model: (moves.append("back"), model.to("cpu"))
    return moves


def test_the_model_leaves_the_gpu_and_comes_back_as_it_was(webui: SimpleNamespace, on_gpu: list[str]) -> None:
    before = weights(webui.shared.sd_model)
    with contextlib.suppress(ZeroDivisionError), WebUIHost().memory_for_training():
        assert webui.call_queue.queue_lock.held
        assert on_gpu == ["cpu"]
        assert WebUIHost().busy() == "a training has the GPU"
        assert "drawing goes on" in webui.shared.state.textinfo
        raise ZeroDivisionError
    assert on_gpu == ["cpu", "back"]
    assert not webui.call_queue.queue_lock.held
    assert WebUIHost().busy() == ""
    assert weights(webui.shared.sd_model) == before


def test_on_a_cpu_nothing_is_in_the_way(webui: SimpleNamespace) -> None:
    with WebUIHost().memory_for_training():
        assert not webui.call_queue.queue_lock.held
        assert WebUIHost().busy() == ""


def test_a_model_that_was_dropped_meanwhile_stays_away(webui: SimpleNamespace, on_gpu: list[str]) -> None:
    with WebUIHost().memory_for_training():
        webui.sd_models.model_data.sd_model = None
        webui.sd_models.model_data.loaded_sd_models.clear()
    assert on_gpu == ["cpu"]


def test_a_failure_on_the_way_off_brings_everything_back(webui: SimpleNamespace, on_gpu: list[str]) -> None:
    def fail(model: Any) -> None:
        raise RuntimeError("CUDA error")

    webui.sd_models.send_model_to_cpu = fail
    with pytest.raises(RuntimeError, match="CUDA error"), WebUIHost().memory_for_training():
        raise AssertionError("not reached")
    assert on_gpu == ["back"]
    assert WebUIHost().busy() == ""
    assert not webui.call_queue.queue_lock.held


def test_captioners_and_upscalers_leave_too(webui: SimpleNamespace, on_gpu: list[str]) -> None:
    went: list[tuple[str, Any]] = []
    for owner, name in (
        (webui.deepbooru.model, "model"),
        (webui.shared.interrogator, "blip_model"),
        (webui.shared.interrogator, "clip_model"),
    ):
        setattr(owner, name, SimpleNamespace(to=lambda device, name=name: went.append((name, device.type))))
    with WebUIHost().memory_for_training():
        assert went == [("model", "cpu"), ("blip_model", "cpu"), ("clip_model", "cpu")]
        assert webui.scaler._cached_model is None


def test_the_forge_family_unloads_and_loads_by_itself(forge: SimpleNamespace) -> None:
    forge.devices.device = torch.device("cuda")
    with WebUIHost().memory_for_training():
        assert forge.memory.calls == ["unload", "empty"]
    assert forge.memory.calls == ["unload", "empty"]


def test_while_a_training_has_the_gpu_nothing_waits_for_hours(webui: SimpleNamespace, on_gpu: list[str]) -> None:
    host = WebUIHost()
    picture = webui.folder / "a.png"
    with host.memory_for_training():
        for captioner in host.captioners():
            with pytest.raises(UserError, match=r"GPU: a training has the GPU\. Wait"):
                captioner.tag([picture], TagOptions(), lambda *told: None, threading.Event())
        with pytest.raises(UserError, match="a training has the GPU"):
            host.upscale(small(), "4x", 64, 64)
        assert host.upscale(small(), "Lanczos", 64, 64).size == (64, 64)


def small() -> Image.Image:
    return Image.new("RGB", (16, 16))


def test_what_the_main_thread_raises_comes_out(forge: SimpleNamespace) -> None:
    """Forge's own loop would swallow it."""

    def fail() -> None:
        raise KeyError(threading.current_thread().name)

    with pytest.raises(KeyError, match="forge main thread"):
        inside.on_main_thread(fail)


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
