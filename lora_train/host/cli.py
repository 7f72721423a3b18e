"""`make-set` on the command line: sets that a checkpoint draws itself, and its own style as a LoRA."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..dataset.folders import shown
from ..errors import DONE, STOPPED, UserError
from ..header import usual_side
from ..paths import MINI_CHECKPOINT, ROOT
from ..studio import project as projects
from ..studio import sets
from ..studio.project import Project
from ..studio.sets import Made, Order


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "make-set", help="let a checkpoint draw regularisation pictures, or those of its own style"
    )
    parser.add_argument("project", help="the project, which is made where there is none")
    parser.add_argument(
        "--kind", choices=sets.KINDS, default=sets.REG, help="base: the checkpoint's style (default: reg)"
    )
    parser.add_argument("--name", default="", help="the concept's name; base: the checkpoint's")
    parser.add_argument(
        "--prompt", action="append", default=[], help="of {a|b} one is taken; given again: another. base: what is drawn"
    )
    parser.add_argument("--count", type=int, default=0, metavar="N", help="pictures (100; base: 60)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="of the folder; base reckons its own (1)")
    parser.add_argument("--caption", help="of every picture (default: its prompt)")
    parser.add_argument("--side", type=int, metavar="PIXELS", help="of width and height (512; SDXL 1024; miniature 64)")
    parser.add_argument("--negative-prompt", default=sets.NEGATIVE)
    parser.add_argument("--seed", type=int, default=1, help="of the first picture (1)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg-scale", type=float, default=7.0)
    parser.add_argument("--sampler", default=sets.SAMPLER)
    parser.add_argument("--clip-skip", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, default=MINI_CHECKPOINT, help="(the embedded miniature)")
    parser.add_argument("--list", action="store_true", help="only show the project's sets")
    parser.add_argument("--go-on", metavar="SET", help="draw what is missing of a set that was stopped, such as set1")
    parser.add_argument("--config", type=Path, metavar="FILE", help="base: write the training's configuration there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw, and say how to go on. Raises UserError."""
    project = _project(args)
    if args.list:
        for made in sets.known(project):
            print(_line(made))
        return DONE
    if not args.checkpoint.is_file():
        raise UserError("there is no such file", where=args.checkpoint, remedy="Name a checkpoint file")
    order = sets.find(project, args.go_on).order if args.go_on else sets.begin(project, _order(args))
    if args.go_on and order.checkpoint not in ("", args.checkpoint.stem):
        what = f"it was begun with {order.checkpoint}"
        raise UserError(what, where="--checkpoint", remedy=f"Name {order.checkpoint}, or draw a new set")
    made = _drawn(project, order, args.checkpoint)
    print(_line(made))
    if made.stopped:
        print(f"to go on: make-set {args.project!r} --go-on {order.id}")
        return STOPPED
    if order.kind == sets.BASE:
        _configured(project, order, args)
    return DONE


def _drawn(project: Project, order: Order, checkpoint: Path) -> Made:
    from tqdm import tqdm

    from .base import Shot
    from .standalone import StandaloneHost  # diffusers takes seconds to import

    host = StandaloneHost(checkpoint, ROOT / "outputs" / "loras", ROOT / "outputs")

    def render(shot: Mapping[str, Any], cancelled: Callable[[], bool]) -> Any:
        return host.render(Shot(**shot), cancelled)

    with tqdm(total=order.count, unit="picture", file=sys.stderr) as bar:

        def count(done: int, total: int) -> None:
            bar.update(done - bar.n)

        try:
            return sets.go_on(project, order.id, render, count)
        except KeyboardInterrupt:
            made = sets.find(project, order.id)
            return Made(order, made.made, stopped=True)


def _configured(project: Project, order: Order, args: argparse.Namespace) -> None:
    """The configuration that trains a checkpoint's own style."""
    name = args.name or args.checkpoint.stem
    side = args.side or _side(args)
    own = {"pretrained_model_name_or_path": str(args.checkpoint.absolute()), "output_dir": str(project.models)}
    settings = sets.base_settings(project, name, side, **own)
    file = args.config or project.root / f"{settings['output_name']}.json"
    if args.config or not file.exists():
        from ..files import write_text

        write_text(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    print(f"to train it: train {str(file)!r}")
    print(f"then, in a recipe: LORA:1:GP1,{settings['output_name']}:-1:GP2")


def _order(args: argparse.Namespace) -> Order:
    side = args.side or _side(args)
    names = ("negative_prompt", "seed", "steps", "cfg_scale", "sampler", "clip_skip")
    drawn = {name: getattr(args, name) for name in names}
    drawn["checkpoint"] = args.checkpoint.stem
    if args.kind == sets.BASE:
        subject = ", ".join(args.prompt) or sets.SUBJECT
        return sets.base_style(args.name or args.checkpoint.stem, args.count or 60, side, subject, **drawn)
    more = {"kind": args.kind, "caption": args.caption, **drawn}
    return sets.regularisation(args.name, args.prompt, args.count or 100, args.repeats, side, **more)


def _side(args: argparse.Namespace) -> int:
    return usual_side(args.checkpoint)


def _project(args: argparse.Namespace) -> Project:
    opened = projects.open_project(args.project) if args.list or args.go_on else projects.make(args.project)
    assert opened.project is not None
    for line in opened.said:
        print(line)
    return opened.project


def _line(made: Made) -> str:
    folders = ", ".join(shown(part.folder) for part in made.order.parts)
    return f"{made.order.id}: {made.made:,} of {made.order.count:,} pictures in {folders} ({made.order.checkpoint})"
