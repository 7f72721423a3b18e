"""`python -m lora_train effects RECIPE …` and `tune RECIPE …`: what the blocks of LoRAs do, and numbers for them."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from ..blocks.presets import BUILTIN, format_numbers, open_presets
from ..blocks.recipe import parse_recipe, resolve
from ..errors import BAD_INPUT, DONE, STOPPED, UserError
from ..events import Event, Listener, event, json_lines
from ..files import read_table
from ..lean import without
from ..paths import MINI_CHECKPOINT
from ..train.cli import Bar, StopSignal

_RECIPE = 'NAME:STRENGTH[:WEIGHTS] with commas between, as for merge; for example "Test0:1:GP1,BASE:-1:GP2"'


def add_arguments(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both verbs."""
    effects = verbs.add_parser("effects", help="what each block of a mix of LoRAs does to one picture, and where in it")
    _add_mix(effects, "prompt of the picture")
    effects.add_argument("--seed", type=int, action="append", help="given again: the mean over several (default: 1)")
    effects.add_argument("--steps", type=int, default=20)
    effects.add_argument("--sampler", default="Euler", help="Euler, Euler a, DDIM or DPM++ 2M")
    effects.add_argument("--timesteps", type=int, nargs="+", default=[800, 500, 200], metavar="T", help="0 … 999")
    effects.add_argument("--each", action="store_true", help="the blocks of each of several LoRAs on their own, too")
    effects.set_defaults(run=run, kind="effects")

    tune = verbs.add_parser("tune", help="block weights that keep the subject and leave everything else alone")
    _add_mix(tune, "how you will ask for the subject (default: its trigger, from the captions)")
    tune.add_argument(
        "--pictures", type=Path, help="folder of pictures with captions that the first LoRA was trained on"
    )
    tune.add_argument(
        "--neutral",
        action="append",
        metavar="PROMPT",
        help="a prompt that should stay what it is; give several (default: captions with other tags)",
    )
    tune.add_argument("--neutral-file", type=Path, metavar="FILE", help="the same, one a line")
    tune.add_argument("--keep", type=float, default=0.5, help="0 the subject alone … 1 the rest alone (default: 0.5)")
    tune.add_argument("--name", default="tuned", help="what to call the result")
    tune.add_argument("--low", type=float, default=0.0, help="least number (default: 0)")
    tune.add_argument("--high", type=float, default=2.0, help="greatest number (default: 2)")
    tune.add_argument("--rounds", type=int, default=1, help="measure again where the last round ended (default: 1)")
    tune.add_argument(
        "--draw",
        type=int,
        metavar="N",
        help="pictures of the subject to judge each result by; 0: none (default: 64, larger than 256 px 24)",
    )
    tune.add_argument("--tied", action="store_true", help="one number a block for all LoRAs of the mix")
    tune.add_argument("--seed", type=int, default=1)
    tune.set_defaults(run=run, kind="tune")


def _add_mix(parser: argparse.ArgumentParser, prompt: str) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=_RECIPE)
    parser.add_argument("--task", type=Path, help="all of it in a JSON file, as the WebUI's jobs have it")
    parser.add_argument("--checkpoint", type=Path, default=MINI_CHECKPOINT, help="default: the embedded miniature")
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--lora-dir", type=Path, metavar="DIR", help="where the LoRAs are")
    parser.add_argument("--presets", type=Path, metavar="FILE", help="preset lines NAME:17 numbers")
    parser.add_argument("--prompt", default="", help=prompt)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--cfg-scale", type=float, default=7.0)
    parser.add_argument("--clip-skip", type=int, default=1)
    parser.add_argument("--width", type=int, help="pixels (512; the miniature: 64)")
    parser.add_argument("--height", type=int, help="pixels (512; the miniature: 64)")
    parser.add_argument("--out", type=Path, required=True, help="folder for measure.json and, of effects, the maps")
    parser.add_argument("--events", action="store_true", help="one JSON object a line on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure; the exit code."""
    emit: Listener = json_lines() if args.events else Lines()
    try:
        task = read_table(args.task) if args.task else task_of(args)
        stop = StopSignal()
        with without("bitsandbytes"):
            from . import run as measuring

        if not measuring.run(task, args.out, emit, stop.is_set):
            return STOPPED
    except UserError as error:
        emit(event("error", text=str(error)))
        return BAD_INPUT
    except Exception as error:  # noqa: BLE001 (the outermost edge: whoever listens must hear of it)
        if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
            emit(event("error", text="out of memory. Choose a smaller picture, or fewer seeds"))
            return BAD_INPUT
        traceback.print_exc()
        emit(event("error", text=f"unexpected: {type(error).__name__}: {error}. Please report it with the log"))
        return 1
    if not args.events:
        print(text_of(json.loads((args.out / measuring.RESULT).read_text(encoding="utf-8"))))
    return DONE


def task_of(args: argparse.Namespace) -> dict[str, Any]:
    """The task that the arguments ask for. Raises UserError."""
    if not args.recipe or not args.lora_dir:
        raise UserError("name the LoRAs and their folder", remedy="Give RECIPE and --lora-dir, or --task")
    presets = {**BUILTIN, **(open_presets(args.presets).file.presets if args.presets else {})}
    sources = resolve(parse_recipe(args.recipe), args.lora_dir, presets)
    side = 64 if args.checkpoint == MINI_CHECKPOINT else 512
    task: dict[str, Any] = {
        "kind": args.kind,
        "checkpoint": str(args.checkpoint),
        "vae": str(args.vae) if args.vae else None,
        "mix": [
            {
                "name": one.item.name,
                "path": str(one.path),
                "te": one.item.strength,
                "unet": one.item.strength,
                "weights": dict(one.weights),
            }
            for one in sources
        ],
        "shot": {
            **{name: getattr(args, name) for name in ("prompt", "negative_prompt", "cfg_scale", "clip_skip")},
            "width": args.width or side,
            "height": args.height or side,
        },
    }
    if args.kind == "effects":
        if not args.prompt.strip():
            raise UserError("is missing", where="--prompt", remedy="Write what to draw")
        task["shot"] |= {"steps": args.steps, "sampler": args.sampler, "seeds": args.seed or [1]}
        return {**task, "timesteps": args.timesteps, "each": args.each}
    if not args.pictures:
        raise UserError("is missing", where="--pictures", remedy="Name the folder that the LoRA was trained on")
    lines = args.neutral_file.read_text(encoding="utf-8").splitlines() if args.neutral_file else []
    prompts = [text.strip() for text in [*(args.neutral or []), *lines] if text.strip()]
    names = ("keep", "name", "low", "high", "tied", "seed", "rounds")
    chosen = {name: getattr(args, name) for name in names}
    if args.draw is not None:
        chosen["draw"] = args.draw
    return {**task, **chosen, "pictures": str(args.pictures), "prompts": prompts}


def text_of(found: dict[str, Any]) -> str:
    """A result for people."""
    if found["kind"] == "effects":
        lines = [f"The whole mix changes the prediction by {found['whole']:.1%}. By block, turned off (or on):", ""]
        width = 40 / max([one["effect"] for one in found["blocks"]] or [1])
        lines += [_effect(one, width) for one in found["blocks"]]
        for n, part in enumerate(found["mix"]):
            its = [one for one in found["by_lora"] if one["lora"] == n]
            if its:
                lines += ["", f"{part['name']} alone:", *(_effect(one, width) for one in its)]
        return "\n".join(lines)
    lines = [f"{'':20} {'subject':>8} {'drift':>8} {'loss':>9} {'drawn':>8}"]
    for row in found["table"]:
        told = ("" if x is None else f"{x:.0%}" for x in (row["subject"], row["drift"], row.get("shown")))
        share, moved, shown = told
        lines.append(f"{row['name']:20} {share:>8} {moved:>8} {row['loss']:>9.5f} {shown:>8}".rstrip())
    lines += ["", "subject and drift: relative to 1 everywhere, on pictures and prompts that weren't tuned on"]
    if found.get("drawn"):
        lines.append(f"drawn: how surely {found['drawn']} new pictures show the subject, judged by the model itself")
    lines.append("")
    lines += [f"{preset['name']}:{format_numbers(preset['numbers'])}" for preset in found["presets"]]
    return "\n".join(lines)


def _effect(one: dict[str, Any], width: float) -> str:
    note = "  (it is off; turned to 1)" if one["was_off"] else ""
    return f"{one['block']:6} {one['effect']:7.2%}  {'#' * round(one['effect'] * width)}{note}"


class Lines(Bar):
    """Progress as a bar on standard error."""

    def _on_measuring(self, e: Event) -> None:
        self._advance(e["done"], e["total"], e["what"])
        if e["done"] == e["total"]:
            self.close()

    def _on_stopped(self, e: Event) -> None:
        self.close()
        print("stopped", file=sys.stderr)

    def _on_done(self, e: Event) -> None:
        self.close()
        print(f"done in {e['seconds']:.0f} s: {e['path']}", file=sys.stderr)
