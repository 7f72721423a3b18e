"""`python -m lora_train presets | inspect | advise`: block presets, what a LoRA file holds, and what to change next."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import BAD_INPUT, DONE, UserError
from ..header import read_header
from .advice import AMOUNT, MAIN, OWN, SYMPTOMS, Mix, Proposal, propose
from .families import names_for, topology, unnamed, weights_by_block
from .layout import index_of
from .norms import norms
from .paste import parse_pasted
from .presets import (
    BUILTIN,
    PresetFile,
    PresetStore,
    find_block_weight,
    format_number,
    format_numbers,
    look_up,
    open_store,
)


def add_arguments(subparsers: Any) -> None:
    """Add the verbs `presets`, `inspect` and `advise`."""
    _add_presets(subparsers)
    parser = subparsers.add_parser("inspect", help="say what a LoRA file holds, block by block")
    parser.add_argument("lora", metavar="FILE", help="a .safetensors")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=inspect)
    parser = subparsers.add_parser(
        "advise",
        help="propose new block weights for a fault that a picture shows",
        epilog="Symptoms: " + "; ".join(f"{symptom.key}: {symptom.label}" for symptom in SYMPTOMS.values()),
    )
    parser.add_argument("symptom", choices=list(SYMPTOMS), metavar="SYMPTOM")
    parser.add_argument("--gp1", default="GP1", metavar="W", help="of the LoRA: preset or numbers (default: GP1)")
    parser.add_argument(
        "--gp2", default="GP2", metavar="W", help="of the checkpoint's own style; none: '' (default: GP2)"
    )
    parser.add_argument("--strength", type=float, default=1.0, metavar="S", help="of the LoRA (default: 1)")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="1 first; the next where it is not enough")
    parser.add_argument(
        "--amount", type=float, default=AMOUNT, metavar="A", help="how far each block goes (default: 0.1)"
    )
    parser.add_argument("--presets", metavar="FILE", help="a preset file, as LoRA Block Weight has it")
    parser.set_defaults(run=advise)


def _add_presets(subparsers: Any) -> None:
    parser = subparsers.add_parser("presets", help="list, check and change block presets")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--file", metavar="FILE", help="a preset file; without any, list shows the built-in presets")
    where.add_argument("--extensions", metavar="DIR", help="a WebUI's extensions: LoRA Block Weight's own file")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="names and numbers")
    actions.add_parser("check", help="what is wrong, by line; exit code 2 where something is")
    put = actions.add_parser("put", help="add a preset, or give it other numbers")
    put.add_argument("name", metavar="NAME")
    put.add_argument("numbers", metavar="NUMBERS", help="12, 17, 20 or 26 numbers with commas")
    rename = actions.add_parser("rename", help="give a preset another name")
    rename.add_argument("name", metavar="OLD")
    rename.add_argument("new", metavar="NEW")
    remove = actions.add_parser("remove", help="take a preset out")
    remove.add_argument("name", metavar="NAME")
    paste = actions.add_parser("import", help="add presets from a prompt, a recipe, preset lines or numbers")
    paste.add_argument("text", metavar="TEXT", help="the text; - reads it from the input")
    paste.add_argument("--name", metavar="NAME", help="for weights that have no name")
    parser.set_defaults(run=presets)


def presets(args: argparse.Namespace) -> int:
    """List, check or change a preset file. Raises UserError; returns 0, or 2 where check finds something."""
    if args.action == "list" and not args.file and not args.extensions:
        _say("\n".join(f"{name}:{format_numbers(numbers)}" for name, numbers in BUILTIN.items()))
        return DONE
    store = _store(args)
    file = store.file
    if args.action == "list":
        _say("\n".join(f"{name}:{format_numbers(numbers)}" for name, numbers in file.presets.items()))
        return DONE
    if args.action == "check":
        problems = file.problems
        _say("\n".join(map(str, problems)) or f"{store.path}: {len(file.presets)} presets, nothing is wrong")
        return BAD_INPUT if problems else DONE
    changed = _changed(file, args)
    store.save(changed)
    touched = [line.text for line in changed.lines if line not in file.lines]
    _say("\n".join([*touched, f"wrote {store.path}"]))
    return DONE


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _store(args: argparse.Namespace) -> PresetStore:
    if args.file:
        return open_store(args.file)
    if not args.extensions:
        raise UserError("which file?", where="presets", remedy="Give --file, or --extensions of a WebUI")
    extension = find_block_weight(args.extensions)
    if extension is None:
        raise UserError("LoRA Block Weight is not among these extensions", where=args.extensions, remedy="Give --file")
    return open_store("", extension)


def _changed(file: PresetFile, args: argparse.Namespace) -> PresetFile:
    if args.action == "rename":
        return file.rename(args.name, args.new)
    if args.action == "remove":
        return file.remove(args.name)
    known = file.with_builtin
    if args.action == "put":
        return file.put(args.name, _weights(args.numbers, known, file))
    text = sys.stdin.read() if args.text == "-" else args.text
    found = [(paste.preset or args.name, paste) for paste in parse_pasted(text, known, faults=file.faults)]
    for name, paste in found:
        if paste.numbers is not None:
            if not name:
                raise UserError("these weights have no name", where=f"line {paste.line}", remedy="Give --name")
            file = file.put(name, paste.numbers)
    if all(paste.numbers is None for _, paste in found):
        raise UserError("there are no block weights in this text", remedy="Paste lbw=, a recipe or numbers")
    return file


def inspect(args: argparse.Namespace) -> int:
    """Print a LoRA's family, kinds, and by block its modules and its size. Raises UserError; returns 0."""
    path = Path(args.lora)
    index = index_of(read_header(path, "LoRA").shapes(), path)
    needing = any(module.needs_checkpoint for module in index.modules.values())
    sizes = {} if needing else norms(path)
    blocks = {block: len(names) for block, names in index.blocks().items()}
    few = len(topology(index.family).attention)
    unlisted = unnamed([1.0] * few, set(blocks), index.family)
    if args.json:
        told = {"family": index.family, "kinds": index.kinds(), "blocks": blocks, "norms": sizes, "unlisted": unlisted}
        _say(json.dumps({**told, "bundled": index.bundled}, ensure_ascii=False))
        return DONE
    _say(f"{path.name}: for {index.family}, " + ", ".join(f"{n} {kind}" for kind, n in sorted(index.kinds().items())))
    _say("block  modules" + ("        norm" if sizes else ""))
    _say("\n".join(f"{block:<6} {n:>7}" + (f" {sizes[block]:>11.4g}" if sizes else "") for block, n in blocks.items()))
    if needing:
        _say("how strong it is in each block depends on the checkpoint's own weights")
    if unlisted:
        _say(f"a list of {few} numbers says nothing of {', '.join(unlisted)}")
    if index.bundled:
        _say(f"and {len(index.bundled)} tensors of embeddings")
    return DONE


def advise(args: argparse.Namespace) -> int:
    """Print a step's changes, why, and the numbers after it. Raises UserError; returns 0."""
    file = open_store(args.presets).file if args.presets else PresetFile()
    known = file.with_builtin
    given = {MAIN: _weights(args.gp1, known, file), OWN: _weights(args.gp2, known, file) if args.gp2 else None}
    main, own = (None if numbers is None else weights_by_block(numbers) for numbers in given.values())
    assert main is not None  # --gp1 has a default
    mix = Mix(main, own, args.strength)
    proposal = propose(args.symptom, mix, args.step - 1, args.amount)
    _say("\n".join(_told(proposal)))
    after = proposal.apply(mix)
    for name, weights, numbers in ((MAIN, after.main, given[MAIN]), (OWN, after.own, given[OWN])):
        if weights is not None and numbers is not None:
            _say(f"{name}:{format_numbers(weights[block] for block in names_for(len(numbers)))}")
    if after.main_strength != mix.main_strength:
        _say(f"strength of {MAIN}: {format_number(after.main_strength)}")
    return DONE


def _told(proposal: Proposal) -> list[str]:
    symptom = SYMPTOMS[proposal.symptom]
    step = symptom.steps[proposal.step]
    changes = [
        f"  {c.target} {c.block or 'strength'}: {format_number(c.old)} → {format_number(c.new)}"
        for c in proposal.changes
    ]
    held = [f"  {name} stays: {why}" for name, why in proposal.held.items()]
    more = [f"if that is not enough: --step {proposal.step + 2}"] if proposal.more else []
    return [f"{symptom.label}, step {proposal.step + 1}: {step.text}", step.reason, *changes, *held, *more]


def _weights(text: str, known: dict[str, tuple[float, ...]], file: PresetFile) -> tuple[float, ...]:
    """Of a preset's name, or numbers with commas."""
    if "," not in text:
        return look_up(text, known, faults=file.faults)
    [paste] = parse_pasted(text, known)
    if paste.numbers is None:
        raise UserError(f"{text!r} is neither a preset nor numbers")
    return paste.numbers
