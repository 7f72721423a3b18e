"""Live block weights inside a real A1111's process. Run by its Python in its folder: `live_calls.py OUT OURS FLAGS…`.

OURS is the folder with lora_train and tests; OUT/loras has a.safetensors, b.safetensors and one file of each kind in
kinds/. Each `call_…` is tried; OUT/report.json says what came of it: "" or a traceback; OUT/times.json has seconds of
the processor.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

TIMES: dict[str, float] = {}


def main(out: Path, ours: Path, flags: list[str]) -> None:
    """Start what of the WebUI is needed, then try everything."""
    sys.argv = ["webui.py", *flags]
    sys.path[:0] = [str(Path.cwd()), str(ours)]
    from modules import initialize

    initialize.imports()
    initialize.initialize()
    from modules import script_callbacks, shared

    script_callbacks.before_ui_callback()
    assert shared.sd_model is not None  # loads it
    from lora_train.host.webui import WebUIHost

    host, report = WebUIHost(), {}
    settings = json.dumps(shared.opts.data, sort_keys=True, default=str)
    for name, call in list(globals().items()):
        if not name.startswith("call_"):
            continue
        try:
            call(host, out / "loras")
            report[name] = ""
        except Exception:  # noqa: BLE001 (the test that reads the report fails)
            report[name] = traceback.format_exc()
        if json.dumps(shared.opts.data, sort_keys=True, default=str) != settings:
            report[name] += "\nthe WebUI's settings were changed"
        (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (out / "times.json").write_text(json.dumps(TIMES), encoding="utf-8")


def shot(folder: Path, *loras: Any, **more: Any) -> Any:
    from lora_train.host.base import Shot

    options = {"seed": 4, "steps": 3, "width": 64, "height": 64, "cfg_scale": 5.0, "loras": loras, **more}
    return Shot("1girl, black hair", **options)


def applied(folder: Path, name: str, te: float = 0.5, unet: float = 0.5, **weights: float) -> Any:
    from lora_train.host.base import Applied

    return Applied(folder / f"{name}.safetensors", te, unet, weights or None)


def drawn(host: Any, it: Any) -> bytes:
    picture = host.render(it)
    assert picture is not None
    return picture.tobytes()


def ordinary(prompt: str) -> bytes:
    """What the user's own txt2img draws."""
    from modules import processing, shared

    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        prompt=prompt,
        seed=4,
        steps=3,
        width=64,
        height=64,
        cfg_scale=5,
        sampler_name="Euler",
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    return processing.process_images(p).images[0].tobytes()


@contextmanager
def counted() -> Iterator[dict[str, Any]]:
    """layers: those that got their own weights back, to be summed anew; texts: passes of the text encoder."""
    import networks
    from modules import shared

    seen: dict[str, Any] = {"layers": [], "texts": 0}
    restore = networks.network_restore_weights_from_backup
    last = max(name for name in shared.sd_model.network_layer_mapping if name.endswith("layers_11_mlp_fc2"))

    def watched(layer: Any) -> Any:
        seen["layers"].append(layer.network_layer_name)
        return restore(layer)

    def passed(*_: Any) -> None:
        seen["texts"] += 1

    hook = shared.sd_model.network_layer_mapping[last].register_forward_pre_hook(passed)
    networks.network_restore_weights_from_backup = watched
    try:
        yield seen
    finally:
        networks.network_restore_weights_from_backup = restore
        hook.remove()


def call_only_what_moves_is_summed(host: Any, folder: Path) -> None:
    a, b = applied(folder, "a"), applied(folder, "b", -1.0, -0.5)
    with counted() as seen:
        both = drawn(host, shot(folder, a, b))
        assert seen["texts"] > 0
    with counted() as seen:
        assert drawn(host, shot(folder, a, b)) == both
        assert seen == {"layers": [], "texts": 0}
    with counted() as seen:
        moved = drawn(host, shot(folder, replace(a, weights={"OUT05": 0.25}), b))
        assert moved != both
        assert len(seen["layers"]) == 12 and seen["texts"] == 0, seen
        assert all("output_blocks_5_1_" in name for name in seen["layers"]), seen
    with counted() as seen:
        drawn(host, shot(folder, replace(a, weights={"OUT05": 0.25, "BASE": 0.5}), b))
        assert len(seen["layers"]) == 72 and seen["texts"] > 0, seen
        assert all("transformer_text_model" in name for name in seen["layers"]), seen
    with counted() as seen:  # a strength of one of the two
        drawn(host, shot(folder, replace(a, unet=0.4, weights={"OUT05": 0.25, "BASE": 0.5}), b))
        assert len(seen["layers"]) == 192 and seen["texts"] == 0, len(seen["layers"])
    with counted() as seen:  # the words
        drawn(host, shot(folder, a, b, negative_prompt="smile"))
        assert seen["texts"] > 0
    assert drawn(host, shot(folder, a, b)) == both


def call_what_is_stamped_is_what_is_summed_from_scratch(host: Any, folder: Path) -> None:
    """A walk of many small moves ends where one leap does."""
    from lora_train.host.webui import live, memory

    a, b = applied(folder, "a"), applied(folder, "b", -1.0, -0.5)
    last = shot(folder)
    for n, block in enumerate(("IN01", "OUT11", "BASE", "M00", "IN01")):
        last = shot(folder, replace(a, weights={block: n / 4, "IN07": 0.5}), replace(b, te=n / 3))
        walked = drawn(host, last)
    import networks

    memory.forget_applied(networks)
    live.forget()
    with counted() as seen:
        assert drawn(host, last) == walked
        assert len(seen["layers"]) > 264


def call_ordinary_pictures_are_as_before(host: Any, folder: Path) -> None:
    from modules import paths, processing, shared

    history = Path(paths.data_path) / "params.txt"
    prompts = ("1girl, black hair", "1girl, black hair <lora:a:0.5>", "1girl, black hair <lora:a:0.5> <lora:b:-1:-0.5>")
    before = {prompt: ordinary(prompt) for prompt in prompts}
    told = history.read_bytes()
    kept = {name: getattr(processing.StableDiffusionProcessing, name)[0] for name in ("cached_c", "cached_uc")}
    for prompt in prompts:
        drawn(host, shot(folder, applied(folder, "a", IN04=0.0, BASE=2.0), applied(folder, "b", -1.0, -0.5)))
        assert ordinary(prompt) == before[prompt], prompt
        drawn(host, shot(folder))
        assert ordinary(prompt) == before[prompt], prompt
    # The plain one is that of the prompt, too.
    assert drawn(host, shot(folder, applied(folder, "a"))) == before[prompts[1]]
    assert history.read_bytes() == told
    assert processing.StableDiffusionProcessing.cached_c[0][0] == kept["cached_c"][0]
    assert (shared.state.job, shared.state.interrupted) == ("", False)
    assert shared.cmd_opts.no_prompt_history is False


def call_live_is_baked(host: Any, folder: Path) -> None:
    from lora_train.blocks.bake import bake_sources, limit_of
    from lora_train.blocks.families import SD15, blocks_of
    from lora_train.blocks.recipe import Item, Source

    weights = {block: (n % 5 - 1) / 2 for n, block in enumerate(blocks_of(SD15))}
    sources = [
        Source(Item(name, strength), folder / f"{name}.safetensors", None, weights, SD15)
        for name, strength in (("a", 0.8), ("b", -1.0))
    ]
    bake_sources(sources, folder / "live-baked.safetensors", limit_of(None, None, "fp16"), "fp16")
    host.refresh_loras()
    live = [applied(folder, it.item.name, it.item.strength, it.item.strength, **weights) for it in sources]
    baked = applied(folder, "live-baked", 1.0, 1.0)
    one, other, bare = (pixels(drawn(host, shot(folder, *its))) for its in (live, [baked], []))
    assert (one - other).abs().max() <= 2, (one - other).abs().max()
    assert (one - bare).abs().max() > 20


def pixels(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).int()


def call_every_kind_of_module(host: Any, folder: Path) -> None:
    """A block's weight multiplies all that the block adds: of a bias and of a DoRA too."""
    from lora_train.blocks.families import SD15, blocks_of

    numbers = {block: (n % 4) / 2 for n, block in enumerate(blocks_of(SD15))}
    drawn(host, shot(folder))
    own = state()
    for path in sorted((folder / "kinds").glob("*.safetensors")):
        file = applied(folder / "kinds", path.stem, 1.0, 1.0)
        drawn(host, shot(folder, file))
        full = state()
        drawn(host, shot(folder, replace(file, weights=numbers)))
        part = state()
        drawn(host, shot(folder, replace(file, weights=dict.fromkeys(numbers, 0.0))))
        none = state()
        changed = {name for name in own if not torch.equal(own[name], full[name])}
        assert changed, path.stem
        for name in own:
            factor = numbers[block(name)]
            wanted = own[name] + factor * (full[name] - own[name])
            assert torch.allclose(part[name], wanted, atol=2e-5), (path.stem, name, factor)
            assert torch.allclose(none[name], own[name], atol=1e-6), (path.stem, name)
    drawn(host, shot(folder))
    assert all(torch.equal(own[name], after) for name, after in state().items())


def state() -> dict[str, torch.Tensor]:
    from modules import shared

    model = shared.sd_model
    parts = {"te": model.cond_stage_model.wrapped, "unet": model.model.diffusion_model}
    tensors = {f"{part}.{name}": value for part, root in parts.items() for name, value in root.state_dict().items()}
    return {name: value.clone() for name, value in tensors.items() if value.is_floating_point()}


def block(name: str) -> str:
    """By CompVis's names, without lora_train."""
    part, _, path = name.partition(".")
    if part == "te":
        return "BASE"
    side, _, rest = path.partition("_block")
    if side == "middle":
        return "M00"
    return f"{side.removesuffix('put').upper()}{int(rest.split('.')[1]):02}" if side in ("input", "output") else "OTHER"


def call_it_is_called_off(host: Any, folder: Path) -> None:
    from modules import shared

    begun = time.monotonic()
    assert host.render(shot(folder, steps=1000), lambda: time.monotonic() > begun + 1) is None
    assert time.monotonic() < begun + 20
    assert (shared.state.interrupted, shared.state.job, host.busy()) == (False, "", "")
    assert drawn(host, shot(folder)) == drawn(host, shot(folder))


def call_what_does_not_fit_is_said(host: Any, folder: Path) -> None:
    from tests.host.contract import refusal

    bare = drawn(host, shot(folder))
    problem = refusal(lambda: host.render(shot(folder, applied(folder, "wide"))))
    assert "wide" in str(problem) and "doesn't fit" in problem.what, problem
    problem = refusal(lambda: host.render(shot(folder, applied(folder, "a", IN99=1.0))))
    assert "IN99" in problem.what
    problem = refusal(lambda: host.render(shot(folder, applied(folder, "none"))))
    assert "none" in str(problem)
    assert drawn(host, shot(folder)) == bare


def call_the_old_way_of_applying(host: Any, folder: Path) -> None:
    """The WebUI's setting for LoRAs at every forward pass."""
    from modules import shared

    it = shot(folder, applied(folder, "a", IN04=0.0, OUT05=2.0))
    usual, bare = pixels(drawn(host, it)), pixels(drawn(host, shot(folder)))
    before = shared.opts.data.get("lora_functional")
    shared.opts.data["lora_functional"] = True
    try:
        old = pixels(drawn(host, it))
    finally:
        shared.opts.data.pop("lora_functional") if before is None else shared.opts.data.update(lora_functional=before)
    assert (old - usual).abs().max() <= 2 < (usual - bare).abs().max()


def call_times(host: Any, folder: Path) -> None:
    """A preview after one block moved takes hardly longer than the bare picture: in seconds of the processor."""
    big = {"width": 128, "height": 128, "steps": 8}
    a, b = applied(folder, "a"), applied(folder, "b", -1.0, -0.5)
    drawn(host, shot(folder, **big))
    TIMES["bare"] = min(timed(host, shot(folder, **big)) for _ in range(3))
    drawn(host, shot(folder, a, b, **big))
    for round in range(3):
        others = replace(a, te=0.1 + round, unet=0.3 + round)
        for name, it in {
            "one block moved": shot(folder, replace(a, weights={"OUT05": round / 8}), b, **big),
            "BASE moved": shot(folder, replace(a, weights={"OUT05": round / 8, "BASE": 0.1 + round}), b, **big),
            "all moved": shot(folder, others, b, **big),
            "nothing moved": shot(folder, others, b, **big),
        }.items():
            TIMES[name] = min(TIMES.get(name, 1e9), timed(host, it))
    assert TIMES["one block moved"] <= 1.3 * TIMES["bare"], TIMES


def timed(host: Any, it: Any) -> float:
    begun = time.process_time()
    drawn(host, it)
    return time.process_time() - begun


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
