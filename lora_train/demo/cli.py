"""`python -m lora_train demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..paths import ROOT


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    demo = verbs.add_parser("demo", help="train, grid and bake on the embedded checkpoint, in minutes, without a GPU")
    demo.add_argument(
        "--out", type=Path, default=ROOT / "outputs" / "demo", help="folder for everything (default: %(default)s)"
    )
    demo.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show a progress bar throughout, then say where everything is."""
    from .run import run as run_demo  # torch and diffusers take seconds to import

    with Stages() as watch:
        result = run_demo(args.out.expanduser().absolute(), watch)
    print(f"\nThe demo took {result.seconds:.0f} s. Everything is here:\n")
    print("  LoRA files, an epoch each")
    for path in result.epochs:
        print(f"    {path}")
    for what, path in (
        ("grid: epochs × weights", result.grid),
        ("baked LoRA: block weights GP1 at 0.9, in one file", result.baked),
        ("loss chart", result.chart),
    ):
        print(f"  {what}\n    {path}")
    return 0


class Stages:
    """One progress bar a stage, from the job's status."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._tqdm, self._stage = tqdm, ""
        self._bar: tqdm | None = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, status: dict[str, Any]) -> None:
        state, grid = status["state"], status["grid"]
        if state == "grid" and grid:
            self._show("grid", grid["done"], grid["total"], "")
        elif state in ("bake", "done"):
            self._finish()
            if state == "bake":
                self._show("bake", 0, 1, "")
        elif status["total"]:
            text = f"epoch {status['epoch']}/{status['epochs']}  loss {status['loss_average'] or 0:.4f}"
            self._show("train", status["step"], status["total"], text)
        else:
            self._show(status["stage"] or state, 0, 1, "")

    def _show(self, stage: str, done: int, total: int, text: str) -> None:
        if stage != self._stage:
            self._finish()
            self._bar, self._stage = self._tqdm(desc=stage, dynamic_ncols=True), stage
        if self._bar is not None:
            self._bar.total = total
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.update((self._bar.total or self._bar.n) - self._bar.n)
            self._bar.close()
            self._bar, self._stage = None, ""
