"""Optimizers and learning rate schedules, each from its own library."""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ..errors import UserError
from ..settings import TrainSettings

Warn = Callable[[str], None]

_log = logging.getLogger(__name__)

_PATHS = {
    "AdamW": "torch.optim.AdamW",
    "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
    "PagedAdamW8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "Lion": "lion_pytorch.Lion",
    "Lion8bit": "bitsandbytes.optim.Lion8bit",
    "DAdaptAdam": "dadaptation.DAdaptAdam",
    "DAdaptLion": "dadaptation.DAdaptLion",
    "DAdaptAdaGrad": "dadaptation.DAdaptAdaGrad",
    "DAdaptSGD": "dadaptation.DAdaptSGD",
    "Prodigy": "prodigyopt.Prodigy",
    "AdaFactor": "transformers.optimization.Adafactor",
    "AdamWScheduleFree": "schedulefree.AdamWScheduleFree",
}
_NAMES = {name.lower(): name for name in _PATHS}
_PLAIN = {"AdamW8bit": "AdamW", "PagedAdamW8bit": "AdamW", "Lion8bit": "Lion"}
_IMPLEMENTATIONS = {"fused", "foreach", "capturable", "differentiable"}
_LARGE = 8192
"""Values of a weight that bitsandbytes keeps in 8 bits; it leaves weights below 4096 in 32."""


def parse_arguments(pairs: list[str], where: str) -> dict[str, Any]:
    """kohya's 'weight_decay=0.1' or 'betas=0.9,0.999' as keyword arguments; one text may hold several."""
    arguments = {}
    for pair in (part for text in pairs for part in re.split(r"\s+(?=[A-Za-z_]\w*\s*=)", text.strip())):
        name, sign, value = pair.partition("=")
        try:
            if not sign:
                raise ValueError
            arguments[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            raise UserError(
                f"{pair!r} is not name=value",
                where=where,
                remedy="Write for example weight_decay=0.01, or decouple=True",
            ) from None
    return arguments


def make_optimizer(groups: list[dict[str, Any]], settings: TrainSettings, warn: Warn = _log.warning) -> Optimizer:
    """The optimizer over `groups` (params, lr), ready to train; what the user should know goes to `warn`.

    Raises UserError where its package is missing, doesn't run here, or doesn't take the arguments.
    """
    name = _NAMES.get(settings.optimizer_type.lower(), settings.optimizer_type)
    groups = [dict(group) for group in groups]
    arguments = parse_arguments(settings.optimizer_args, "optimizer_args")
    if "lr" in arguments:
        raise UserError("lr isn't given here", where="optimizer_args", remedy="Set learning_rate")
    if name in _PLAIN:
        problem = _cannot_run(name, groups[0]["params"][0].device)
        if problem and not settings.optimizer_fallback:
            raise UserError(
                f"{name} doesn't run here: {problem}",
                where="optimizer_type",
                remedy=f"Choose {_PLAIN[name]}, or switch optimizer_fallback on",
            )
        if problem:
            warn(f"{name} doesn't run here ({problem}), so {_PLAIN[name]} is used")
            name = _PLAIN[name]
            arguments = _known_to(_load(_PATHS[name], torch.optim, "optimizer_type"), arguments)
    if name == "AdaFactor":
        return _adafactor(groups, settings, arguments, warn)
    if name.startswith("DAdapt") or name == "Prodigy":
        groups = _one_rate(groups, name, warn)
    if _schedule_free(settings) and (settings.lr_scheduler != "constant" or settings.lr_warmup_steps):
        warn(f"{name} needs no schedule: lr_scheduler and lr_warmup_steps do nothing (it has warmup_steps of its own)")
    kind = _load(_PATHS.get(name, name), torch.optim, "optimizer_type")
    rate = settings.learning_rate or groups[0]["lr"]
    optimizer = None
    if name == "AdamW" and not _IMPLEMENTATIONS & arguments.keys():
        optimizer = _fused(kind, groups, rate, arguments)
    if optimizer is None:
        optimizer = _built(kind, name, "optimizer_args", groups, {"lr": rate, **arguments})
    set_mode(optimizer, training=True)
    return optimizer


def make_schedule(optimizer: Optimizer, settings: TrainSettings, total_steps: int) -> LRScheduler:
    """The rates of every group, per optimizer step: transformers' schedules with sd-scripts' arguments."""
    from transformers import optimization

    s, warmup = settings, settings.warmup_steps(total_steps)
    if _relative(optimizer):
        return _RelativeRates(optimizer, s.learning_rate)
    if _schedule_free(s):
        return optimization.get_constant_schedule(optimizer)
    if s.lr_scheduler_type:
        return _own_schedule(optimizer, s, warmup)
    if s.lr_scheduler == "adafactor":
        raise UserError(
            "it follows an AdaFactor that sets its own rate", where="lr_scheduler", remedy="Choose constant_with_warmup"
        )
    special = {
        "cosine_with_restarts": {"num_cycles": s.lr_scheduler_num_cycles},
        "polynomial": {"power": s.lr_scheduler_power},
        "cosine_with_min_lr": {
            "num_cycles": s.lr_scheduler_num_cycles / 2,
            "min_lr_rate": s.lr_scheduler_min_lr_ratio or 0.0,
        },
    }
    try:
        return optimization.get_scheduler(s.lr_scheduler, optimizer, warmup, total_steps, special.get(s.lr_scheduler))
    except ValueError as error:  # polynomial, from a rate below its last one of 1e-7
        raise UserError(str(error), where="lr_scheduler", remedy="Raise learning_rate, or choose another") from None


def check(settings: TrainSettings, device: torch.device) -> None:
    """Make both for a single weight, so that what is wrong is told before a model is loaded. Raises UserError."""
    rate = settings.unet_rate or settings.text_encoder_rate or settings.text_encoder2_rate
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1, device=device))], "lr": rate}]
    make_schedule(make_optimizer(groups, settings, warn=lambda text: None), settings, total_steps=1000)


def effective_rates(optimizer: Optimizer) -> list[float]:
    """The rate of each group: lr, or d * lr where the optimizer estimates d (D-Adaptation, Prodigy)."""
    return [float(group["lr"] * group.get("d", 1.0)) for group in optimizer.param_groups]


def set_mode(optimizer: Optimizer, training: bool) -> None:
    """Schedule-free optimizers train at other weights than those to be saved and shown; nothing for others."""
    change = getattr(optimizer, "train" if training else "eval", None)
    if change:
        change()


def _adafactor(
    groups: list[dict[str, Any]], settings: TrainSettings, arguments: dict[str, Any], warn: Warn
) -> Optimizer:
    """relative_step, the default as in sd-scripts, sets the rate by itself: then no group keeps one."""
    kind = _load(_PATHS["AdaFactor"], torch.optim, "optimizer_type")
    relative = arguments.get("relative_step", True) or arguments.get("warmup_init", False)
    arguments["relative_step"] = relative
    rate: float | None = settings.learning_rate
    if relative:
        warn(
            "AdaFactor with relative_step sets its rate by itself: learning rates, lr_scheduler and warm-up do nothing"
        )
        groups = [{key: value for key, value in group.items() if key != "lr"} for group in groups]
        rate = None
    elif settings.max_grad_norm:
        warn("AdaFactor clips by itself: max_grad_norm 0 is common with it")
    return _built(kind, "AdaFactor", "optimizer_args", groups, {"lr": rate, **arguments})


class _RelativeRates(LambdaLR):
    """Shows the rates that AdaFactor sets by itself, those of each group's first trained weight.

    transformers' AdafactorSchedule does the same, but breaks where a group's first weight has no gradient.
    """

    def __init__(self, optimizer: Optimizer, initial: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = initial  # shown until the first step; relative_step never reads it
        super().__init__(optimizer, lambda step: 1.0)

    def get_lr(self) -> list[float]:
        adafactor, rates = self.optimizer, []
        for group, initial in zip(adafactor.param_groups, self.base_lrs, strict=True):
            states = [adafactor.state[p] for p in group["params"] if p in adafactor.state]
            rates.append(float(adafactor._get_lr(group, states[0])) if states else initial)
        return rates


def _schedule_free(settings: TrainSettings) -> bool:
    return settings.optimizer_type.lower().endswith("schedulefree")


def _relative(optimizer: Optimizer) -> bool:
    return all(group.get("relative_step") and "scale_parameter" in group for group in optimizer.param_groups)


def _one_rate(groups: list[dict[str, Any]], name: str, warn: Warn) -> list[dict[str, Any]]:
    """These optimizers find the rate by themselves and refuse groups that differ: all get the first group's."""
    rate = groups[0]["lr"]
    if rate <= 0.1:
        warn(f"{name} finds the learning rate by itself and multiplies it with yours: {rate:g} is low, 1 is meant")
    if any(group["lr"] != rate for group in groups):
        warn(f"{name} takes one learning rate: {rate:g} is used for all parts")
    return [{**group, "lr": rate} for group in groups]


def _fused(kind: type, groups: list[dict[str, Any]], rate: float, arguments: dict[str, Any]) -> Optimizer | None:
    """All weights in one kernel, where this torch has it for the device: on the CPU from torch 2.4 on."""
    try:
        return kind([dict(group) for group in groups], lr=rate, fused=True, **arguments)
    except (RuntimeError, TypeError, ValueError):
        return None


def _cannot_run(name: str, device: torch.device) -> str:
    """Why the 8-bit optimizer can't do a step on the device, or ""."""
    weight = torch.nn.Parameter(torch.ones(_LARGE, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        _load(_PATHS[name], torch.optim, "optimizer_type")([weight], lr=0.1).step()
        return "" if bool((weight < 1).all()) else "a trial step did nothing"
    except UserError as error:
        return f"{error.what}. {error.remedy}"
    except Exception as error:  # noqa: BLE001  which one depends on bitsandbytes' version and on the driver
        return f"{type(error).__name__}: {error}"


def _known_to(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(kind).parameters
    return {name: value for name, value in arguments.items() if name in known}


def _own_schedule(optimizer: Optimizer, settings: TrainSettings, warmup: int) -> LRScheduler:
    """The scheduler at the path lr_scheduler_type, made with lr_scheduler_args."""
    if warmup:
        raise UserError("has no effect with lr_scheduler_type", where="lr_warmup_steps", remedy="Set it to 0")
    path = settings.lr_scheduler_type
    kind = _load(path, torch.optim.lr_scheduler, "lr_scheduler_type")
    if issubclass(kind, ReduceLROnPlateau):
        raise UserError(f"{path} waits for a loss of its own", where="lr_scheduler_type", remedy="Choose another")
    arguments = parse_arguments(settings.lr_scheduler_args, "lr_scheduler_args")
    return _built(kind, path, "lr_scheduler_args", optimizer, arguments)


def _built(kind: type, name: str, where: str, subject: Any, arguments: dict[str, Any]) -> Any:
    """kind(subject, **arguments). What it prints goes to stderr, as stdout is for events."""
    try:
        with redirect_stdout(sys.stderr):
            return kind(subject, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(
            f"{name} doesn't take these arguments ({str(error) or 'a value is out of range'})",
            where=where,
            remedy="Mend or remove them",
        ) from None


def _load(path: str, default: Any, where: str) -> type:
    """The class at a dotted path; a bare name is one of `default`, a module. Raises UserError."""
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else default
    except ModuleNotFoundError as error:
        package = (error.name or module_name).partition(".")[0]
        ours = path in _PATHS.values()  # in our lists, in the version that fits; a plain pip install may take another
        again = "Install the training packages again: in the Train LoRA tab, or by a start of launch.py"
        remedy = again if ours else f"Run: {sys.executable} -m pip install --no-deps {package.replace('_', '-')}"
        raise UserError(f"the package {package} isn't installed", where=where, remedy=remedy) from None
    except Exception as error:  # a package that doesn't fit this torch may raise anything
        raise UserError(f"{module_name} can't be loaded ({type(error).__name__}: {error})", where=where) from error
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        raise UserError(f"there is no {name} in {module.__name__}", where=where, remedy="Check the name")
    return kind
