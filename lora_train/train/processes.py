"""Several processes, on one machine or many, as accelerate starts them: `accelerate launch -m lora_train train …`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch

from ..errors import BAD_INPUT, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

_T = TypeVar("_T")
_PATIENCE = timedelta(hours=3)
"""How long processes wait for one another: all but one do while it measures, draws previews and saves."""
_ASKED_EVERY = 10
"""Steps after which GPUs are asked whether to stop: the answer waits for all that they still have to do."""
_REPEATED = 5.0
"""Seconds in which a second signal is the first one again: a scheduler's own, and the launcher's that passes it on."""
_SIGNS = ("connection closed by peer", "connection reset", "broken pipe", "nccl", "timed out waiting", "socket", "gloo")


class Processes:
    """This process among those of the run: how many there are, which one this is, what they agree on."""

    def __init__(self, accelerator: Accelerator | None) -> None:
        self.accelerator = accelerator
        self.count = accelerator.num_processes if accelerator else 1
        self.rank = accelerator.process_index if accelerator else 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes, measures and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        if self.accelerator:
            return self.accelerator.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def agree(self, said: bool) -> bool:
        """Whether any process says so; all of them must ask."""
        if not self.accelerator:
            return said
        flag = torch.tensor([float(said)], device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def stopping(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """To be asked after every step by all processes: whether any is told to stop, by `stop` or by a signal."""
        if not self.accelerator:
            return stop
        told, asked = signalled(), 0
        every = 1 if self.device.type == "cpu" else _ASKED_EVERY

        def stopping() -> bool:
            nonlocal asked
            asked += 1
            return asked % every == 0 and self.agree(stop() or told())

        return stopping

    def together(self, action: Callable[[], _T]) -> _T:
        """Do it in all processes. What any of them raises as UserError ends all, and the main one tells it."""
        if not self.accelerator:
            return action()
        try:
            result, problem = action(), ""
        except UserError as error:
            problem = str(error)
        problems = dict.fromkeys(filter(None, self._everyones(problem)))
        if problems:
            self._fail("\n".join(problems))
        return result

    def compare(self, facts: Mapping[str, object]) -> None:
        """Raise UserError where a fact isn't the same in all processes, by name; they would wait forever otherwise."""
        if not self.accelerator:
            return
        everyones = self._everyones(dict(facts))
        if different := [name for name in facts if any(other[name] != everyones[0][name] for other in everyones)]:
            self._fail(
                f"the processes don't have the same {', '.join(different)}. "
                "Give every machine the same configuration, checkpoint and pictures"
            )

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Leave the group in order, all at once: a launcher ends the others as soon as one has ended with a code."""
        if self.accelerator:
            self.wait()
            self.accelerator.end_training()

    def _everyones(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object([value])

    def _fail(self, what: str) -> NoReturn:
        """End all processes; to be called by all of them."""
        self.end()
        if self.main:
            raise UserError(what)
        raise SystemExit(BAD_INPUT)


def join() -> Processes:
    """The group that accelerate (or torchrun) started this process for; alone where none did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(None)
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    # Layers past clip_skip and modules that were dropped out take no part in a step.
    options = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # TrainSettings decides, not accelerate's own configuration
        dynamo_backend="no",
        kwargs_handlers=[options, InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    if accelerator.distributed_type.value not in ("MULTI_GPU", "MULTI_CPU"):
        raise UserError(
            f"{accelerator.distributed_type.value} isn't supported",
            where="accelerate's configuration",
            remedy="Choose multi-GPU without DeepSpeed, FSDP and Megatron-LM",
        )
    return Processes(accelerator)


def lost(error: BaseException) -> UserError | None:
    """The error for people where `error` says that another process of the run is gone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not any(sign in str(error).lower() for sign in _SIGNS):
        return None
    return UserError(
        "another process of this run has ended, so this one ends too",
        where=f"process {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']}",
        remedy="Look at that process's own messages; states that were saved can be resumed",
    )


def signalled() -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT has come: launchers and schedulers ask so for an end. A later one ends at once."""
    came: list[float] = []
    if threading.current_thread() is threading.main_thread():

        def note(number: int, _frame: object) -> None:
            if came and time.monotonic() > came[0] + _REPEATED:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            came.append(time.monotonic())

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, note)
    return lambda: bool(came)
