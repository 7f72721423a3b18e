"""Our host inside a real WebUI's process. Run by its Python in its folder: `host_calls.py OUT OURS FLAGS…`, its flags.

OURS is the folder with lora_train and tests. Each `call_…` below is tried; OUT/report.json says what came of it:
"" or a traceback. Models are looked for in OUT/models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

TAGS = 9176
PICTURES = 2


IS_FORGE = Path("modules_forge").is_dir()


def main(out: Path, ours: Path, flags: list[str]) -> None:
    """Start what of the WebUI is needed, then try everything: in Forge beside its main loop, as requests do."""
    sys.argv = ["webui.py", *flags]
    sys.path[:0] = [str(Path.cwd()), str(ours)]
    if IS_FORGE:
        from modules_forge.initialization import initialize_forge

        initialize_forge()
    from modules import initialize

    initialize.imports()
    initialize.initialize()
    if not IS_FORGE:
        try_everything(out)
        return
    from modules_forge import main_thread

    def work() -> None:
        code = 1
        try:
            try_everything(out)
            code = 0
        except BaseException:  # noqa: BLE001 (the process ends here, whatever it was)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    threading.Thread(target=work).start()
    main_thread.loop()


def try_everything(out: Path) -> None:
    """Each call and each check of the contract."""
    from modules import script_callbacks, shared

    script_callbacks.before_ui_callback()
    assert shared.sd_model is not None  # A1111 loads it

    from lora_train.host import current
    from tests.host import contract

    host = current()
    settings = json.dumps(shared.opts.data, sort_keys=True, default=str)
    calls: dict[str, Callable[[], None]] = {}
    for name, call in list(globals().items()):
        if name.startswith("call_"):
            calls[name.removeprefix("call_")] = partial(call, host, folder(out, name))
    for check in contract.CHECKS:
        calls[f"contract: {check.__name__}"] = partial(check, host, folder(out, check.__name__))
    report = {}
    for name, call in calls.items():
        report[name] = outcome(call)
        if json.dumps(shared.opts.data, sort_keys=True, default=str) != settings:
            report[name] += "\nthe WebUI's settings were changed"
        (out / "report.json").write_text(json.dumps(report), encoding="utf-8")


def folder(out: Path, name: str) -> Path:
    (out / name).mkdir()
    return out / name


def outcome(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception:  # noqa: BLE001 (the test that reads the report fails)
        return traceback.format_exc()
    return ""


@contextlib.contextmanager
def setting(**values: Any) -> Iterator[None]:
    """The user has chosen these."""
    from modules import shared

    before = {name: shared.opts.data.get(name) for name in values}
    shared.opts.data.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            shared.opts.data.pop(name, None) if value is None else shared.opts.data.update({name: value})


def refusal(action: Callable[[], object]) -> str:
    from tests.host.contract import refusal

    return str(refusal(action))


def pictures(folder: Path) -> list[Path]:
    """Noise of several sizes."""
    noise = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(PICTURES)]
    for n, path in enumerate(paths):
        Image.fromarray(noise.integers(0, 256, (60 + 20 * n, 90, 3), np.uint8)).save(path)
    return paths


def captions(captioner: Any, paths: list[Path], **options: Any) -> list[str]:
    from lora_train.host.base import TagOptions

    made = captioner.tag(paths, TagOptions(**options), lambda *told: None, threading.Event())
    assert not made.problems
    return [made.captions[path] for path in paths]


def digest(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def call_no_model_says_where_it_belongs(host: Any, folder: Path) -> None:
    """First of all: there is none yet, and no connection."""
    from modules import deepbooru, paths_internal

    for captioner, name in zip(host.captioners(), ("torch_deepdanbooru", "BLIP"), strict=True):
        assert name in captioner.note()
        said = refusal(partial(captions, captioner, pictures(folder)))
        assert str(Path(paths_internal.models_path) / name) in said, said
        assert "isn't there and can't be downloaded. Put model" in said, said
    assert deepbooru.model.model is None


def make_deepbooru() -> Path:
    """Random weights in deepbooru's file, so that the scores of the tags lie all over."""
    from modules import deepbooru_model, paths_internal

    torch.manual_seed(0)
    net = deepbooru_model.DeepDanbooruModel()
    head = list(net.children())[-1]
    with torch.no_grad():
        spread = torch.logit(net(torch.rand(1, 512, 512, 3))).std()
        head.weight *= 2 / spread
    state = {name: value.half() for name, value in net.state_dict().items()}
    file = Path(paths_internal.models_path) / "torch_deepdanbooru" / "random.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = [f"tag_{number}_(of_{number % 7})" for number in range(TAGS - 3)]
    torch.save({**state, "tags": [*names, "rating:safe", "1girl", "long_hair"]}, file)
    return file


def call_deepbooru_is_the_webuis_own(host: Any, folder: Path) -> None:
    """With the WebUI's settings as options, the WebUI's captions; in batches as one by one; nothing stays behind."""
    from modules import deepbooru

    from lora_train.host.base import find_captioner

    make_deepbooru()
    paths = pictures(folder)
    captioner = find_captioner(host, "deepbooru")
    assert captioner.note() == ""
    threshold = 0.97
    theirs = {"interrogate_deepbooru_score_threshold": threshold, "deepbooru_filter_tags": "long hair"}
    for batch, spaces, escape, alphabet, ranks in ((1, True, True, True, False), (PICTURES, False, False, False, True)):
        shown = {"deepbooru_use_spaces": spaces, "deepbooru_escape": escape, "deepbooru_sort_alpha": alphabet}
        with setting(**theirs, **shown, interrogate_return_ranks=ranks):
            expected = [deepbooru.model.tag(Image.open(path)) for path in paths]
        deepbooru.model.model = None
        options = {"spaces": spaces, "escape": escape, "ranks": ranks, "exclude": ("long hair",)}
        options |= {"sort": "alphabet" if alphabet else "confidence", "threshold": threshold}
        made = captions(captioner, paths, batch_size=batch, **options)
        assert made == expected, (made[0][:300], expected[0][:300])
        assert IS_FORGE or deepbooru.model.model is None  # Forge's memory management keeps it
        assert len(set(made)) == PICTURES
        assert all(5 < len(caption.split(", ")) < TAGS // 2 for caption in made), made[0][:300]
    deepbooru.model.load()
    kept = deepbooru.model.model
    captions(captioner, paths[:1])
    assert deepbooru.model.model is kept
    deepbooru.model.model = None


def make_blip() -> None:
    """Random weights in BLIP's file."""
    from modules import paths, paths_internal, shared

    shared.interrogator.create_fake_fairscale()
    import models.blip

    torch.manual_seed(0)
    config = Path(paths.paths["BLIP"]) / "configs" / "med_config.json"
    net = models.blip.BLIP_Decoder(image_size=384, vit="base", med_config=str(config))
    file = Path(paths_internal.models_path) / "BLIP" / "random.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {name: value.half() for name, value in net.state_dict().items()}}, file)


def call_blip_is_the_webuis_own(host: Any, folder: Path) -> None:
    """With the WebUI's settings as options, the WebUI's sentence; without CLIP, which it loads too."""
    from modules import shared

    from lora_train.host.base import find_captioner

    make_blip()
    paths = pictures(folder)
    captioner = find_captioner(host, "blip")
    assert captioner.note() == ""
    lengths = {"min_length": 6, "max_length": 12}
    made = captions(captioner, paths, **lengths)
    interrogator = shared.interrogator
    assert interrogator.clip_model is None
    if not IS_FORGE:
        assert interrogator.blip_model is None
        interrogator.blip_model, interrogator.dtype = interrogator.load_blip_model(), torch.float32
    theirs = {f"interrogate_clip_{name}": length for name, length in lengths.items()}
    with setting(interrogate_clip_num_beams=1, **theirs):
        expected = interrogator.generate_caption(Image.open(paths[0]))
    assert made[0] == " ".join(expected.split())
    assert all(made)
    kept = interrogator.blip_model
    assert all(captions(captioner, paths, beams=2, **lengths))  # with the WebUI's transformers its own code can't
    assert interrogator.blip_model is kept
    interrogator.blip_model = None


def call_damaged_models_are_named(host: Any, folder: Path) -> None:
    from modules import paths_internal

    from lora_train.host.base import find_captioner

    [file] = (Path(paths_internal.models_path) / "torch_deepdanbooru").iterdir()
    sound = file.read_bytes()
    for data in (sound[: len(sound) // 2], b"", b"<html>no such file</html>"):
        file.write_bytes(data)
        for _ in range(2):
            said = refusal(partial(captions, find_captioner(host, "deepbooru"), pictures(folder)))
            assert str(file) in said, said
            assert "Replace it by model-resnet_custom_v3.pt" in said, said
    file.write_bytes(sound)


def call_upscalers_reach_the_size(host: Any, folder: Path) -> None:
    """Nearest by the WebUI's own class; and one that can't be downloaded."""
    from modules import shared

    picture = Image.open(pictures(folder)[0])
    known = [entry.name for entry in shared.sd_upscalers]
    assert set(host.upscalers()) == set(known) - {"None"}
    for size in ((180, 120), (91, 61), (301, 200), (97, 333)):
        assert host.upscale(picture, "Nearest", *size).size == size
    offline = [entry.name for entry in shared.sd_upscalers if str(entry.data_path).startswith("http")]
    assert offline
    said = refusal(lambda: host.upscale(picture, offline[0], 180, 120))
    assert f"{offline[0]}: the upscaler failed" in said, said


def call_vae_and_clip_skip_are_taken_over(host: Any, folder: Path) -> None:
    """The user's choice; the file beside the checkpoint; neither."""
    from modules import paths_internal, sd_vae

    assert host.checkpoint().clip_skip == 1
    with setting(CLIP_stop_at_last_layers=2):
        assert host.checkpoint().clip_skip == 2
    if IS_FORGE:
        vae_of_forge(host, Path(paths_internal.models_path))
        return

    def resolved() -> Any:
        sd_vae.refresh_vae_list()
        return host.checkpoint().vae

    chosen = Path(paths_internal.models_path) / "VAE" / "chosen.safetensors"
    beside = host.checkpoint().path.with_suffix(".vae.safetensors")
    chosen.parent.mkdir(exist_ok=True)
    assert resolved() is None
    try:
        for file in (chosen, beside):
            save_file({"decoder.x": torch.zeros(1)}, file)
        with setting(sd_vae="chosen.safetensors", sd_vae_overrides_per_model_preferences=True):
            assert resolved() == chosen
        with setting(sd_vae="Automatic"):
            assert resolved() == beside
        with setting(sd_vae="None", sd_vae_overrides_per_model_preferences=True):
            assert resolved() is None
    finally:
        chosen.unlink()
        beside.unlink()
    assert resolved() is None


def vae_of_forge(host: Any, models: Path) -> None:
    """One list of VAE and text encoders."""
    files = [models / folder / "file.safetensors" for folder in ("text_encoder", "VAE")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        save_file({"x": torch.zeros(1)}, file)
    for chosen, expected in (([], None), (files[:1], None), (files, files[1])):
        with setting(forge_additional_modules=[str(file) for file in chosen]):
            assert host.checkpoint().vae == expected


def call_language(host: Any, folder: Path) -> None:
    assert host.language() == ""
    with setting(localization="zh_CN"):
        assert host.language() == "zh-CN"


def call_models_leave_and_come_back_bit_for_bit(host: Any, folder: Path) -> None:
    """As on a GPU, though both places are the CPU here: the WebUI's own moves, its queue, and a drawing that waits."""
    from modules import call_queue, shared

    from lora_train.host.webui import memory

    if IS_FORGE:  # its models come back by themselves when they are used
        with memory.lent():
            assert host.busy() == "a training has the GPU"
        return
    before, picture = digest(shared.sd_model), draw()
    on_gpu, memory._on_gpu = memory._on_gpu, lambda model: True
    drawn: list[bytes] = []

    def generate() -> None:
        with call_queue.queue_lock:
            drawn.append(draw())

    waiting = threading.Thread(target=generate)
    try:
        with memory.lent():
            assert host.busy() == "a training has the GPU"
            waiting.start()
            waiting.join(1.5)
            assert waiting.is_alive()
            assert digest(shared.sd_model) == before
    finally:
        memory._on_gpu = on_gpu
    waiting.join(60)
    assert drawn == [picture]
    assert digest(shared.sd_model) == before
    assert host.busy() == ""


def draw() -> bytes:
    """A picture of the WebUI's own; the caller holds its queue."""
    from modules import processing, shared

    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        outpath_samples="",
        outpath_grids="",
        prompt="a cat",
        seed=1,
        steps=2,
        width=64,
        height=64,
        sampler_name="Euler",
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    p.scripts = None
    return processing.process_images(p).images[0].tobytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
