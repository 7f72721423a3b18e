"""One whole run in a process of its own: check everything, load, cache, train."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..dataset.buckets import fill
from ..dataset.pictures import Concept, Dataset
from ..dataset.source import open_dataset
from ..errors import UserError, raise_all
from ..events import Event, Listener, event
from ..files import check_output_name, require_space
from ..model.checkpoint import recognise
from ..model.load import StableDiffusion, load_model
from ..network.kohya import read_lora
from ..network.lora import LoraNetwork, merge_into
from ..network.spec import spec_of
from ..plan.costs import estimate
from ..plan.steps import length, plan
from ..settings import TrainSettings
from .batch import Batch
from .data import TrainingData
from .latents import Latents, Stopped, prepare_latents
from .log import Log
from .loop import Outcome, train
from .metadata import Counts, Metadata
from .optimizer import check as check_optimizer
from .position import Position
from .prepare import prepare
from .previews import Previews, read_prompts
from .processes import Processes, join
from .progress import Progress
from .report import Report
from .save import Saver
from .state import load_state
from .step import Step, compute_dtype
from .text_cache import TextCache, cache_text
from .validation import Validation, fixed, neutral, split

Say = Callable[[str], None]


def run(settings: TrainSettings, emit: Listener, stop: Callable[[], bool]) -> Outcome:
    """Train as told. Nothing is created before everything has been checked. Raises UserError."""
    began = time.monotonic()
    processes = join()
    if not processes.main:
        emit = _silent
    try:
        outcome = _run(settings, emit, stop, processes)
    except Stopped:
        outcome = Outcome(0, [], stopped=True)
    last = str(outcome.files[-1]) if outcome.files else None
    name, seconds = "stopped" if outcome.stopped else "done", round(time.monotonic() - began, 1)
    emit(event(name, path=last, steps=outcome.steps, seconds=seconds))
    processes.end()
    return outcome


def _run(settings: TrainSettings, emit: Listener, stop: Callable[[], bool], processes: Processes) -> Outcome:
    def warn(text: str) -> None:
        emit(event("warning", text=text))

    dataset = processes.together(lambda: check(settings, processes.device))
    processes.compare(_shared(settings, dataset))
    for warning in dataset.warnings:
        warn(warning)
    training, held_out = split(dataset, settings)
    everything, learnt = _together(training, held_out), len(training.concepts)

    emit(event("stage", text=f"loading {Path(settings.pretrained_model_name_or_path).name}"))
    model = _model(settings, processes.device, warn)
    latents = _latents(model, everything, settings, processes, stop, emit, warn)
    training, held_out = _apart(latents.dataset, learnt)
    text = cache_text(model, _together(training, held_out), settings, progress=_counting("captions", emit), warn=warn)

    network = _network(model, settings, warn)
    data = TrainingData(training, latents, settings, text=text, processes=processes.count, rank=processes.rank)
    steps, epochs = length(settings, data.steps_per_epoch)
    measured = held_out.picture_count if held_out else 0
    counts = Counts(steps, epochs, data.steps_per_epoch, data.batches_per_epoch, processes.count, measured)
    step = Step(model, network, settings, steps, processes.accelerator, warn)
    at = processes.together(lambda: _resumed(step, training, settings, counts, warn))
    processes.compare({"readable pictures": training.picture_count, "state to resume": at.done})
    _release(model, latents, text, settings)

    emit(event("start", **_facts(settings, training, held_out, counts, at, processes)))
    stop = processes.stopping(stop)
    if not processes.main:
        nobody: Any = _Nobody()
        return train(step, data, counts, nobody, nobody, settings, at, stop, processes.agree)
    metadata = Metadata(settings, training, model, counts)
    saver = Saver(step, metadata, training.picture_count, settings, emit)
    report = Report(
        step,
        Progress(steps, data.steps_per_epoch, at.done),
        settings,
        emit,
        _validation(step, training, held_out, latents, text, settings),
        Previews(settings, model, network, watch=step.watch, warn=warn) if settings.sample_prompts else None,
        Log(settings, warn) if settings.logging_dir or settings.log_with == "wandb" else None,
        (training.picture_count, training.images_with_repeats / training.picture_count),
    )
    outcome = train(step, data, counts, saver, report, settings, at, stop, processes.agree)
    report.close(at)
    return outcome


# Before the first step


def check(settings: TrainSettings, device: torch.device) -> Dataset:
    """Look at everything that the run needs; all problems are reported together."""
    errors: list[UserError] = []

    def attempt(action: Callable[[], object]) -> object:
        try:
            return action()
        except UserError as error:
            errors.append(error)
            return None

    attempt(lambda: check_output_name(settings.output_name))
    attempt(lambda: compute_dtype(settings, device))
    attempt(lambda: _required(settings, "output_dir"))
    if attempt(lambda: _required(settings, "pretrained_model_name_or_path")):
        attempt(lambda: spec_of(settings, recognise(settings.pretrained_model_name_or_path)))
    attempt(lambda: check_optimizer(settings, device))
    attempt(lambda: read_prompts(settings))
    for path in filter(None, (settings.network_weights, *settings.base_weights)):
        attempt(lambda path=path: read_lora(path))  # type: ignore[misc]
    if settings.resume:
        attempt(lambda: load_state(settings.resume))
    dataset = None
    if settings.dataset_config or attempt(lambda: _required(settings, "train_data_dir")):
        dataset = attempt(lambda: open_dataset(settings))
    if settings.output_dir:
        attempt(lambda: require_space(settings.output_dir, _space_needed(settings)))
    raise_all(errors)
    assert isinstance(dataset, Dataset)
    return dataset


def _required(settings: TrainSettings, name: str) -> str:
    if not getattr(settings, name):
        raise UserError("is not given", where=name, remedy="Write it into the configuration")
    return str(getattr(settings, name))


def _space_needed(settings: TrainSettings) -> int:
    """A generous guess in bytes for the LoRA files of a full-size SD1.5: 1.2 MB per rank in fp16, every saved epoch."""
    bytes_each = 1_200_000 * settings.network_dim * (2 if settings.save_precision == "float" else 1)
    files = 2 + (settings.max_train_epochs or 1) // (settings.save_every_n_epochs or 10**9)
    checkpoint = Path(settings.pretrained_model_name_or_path)
    share = min(1.0, checkpoint.stat().st_size / 2e9) if checkpoint.is_file() else 1.0
    return int(bytes_each * files * share)


def _model(settings: TrainSettings, device: torch.device, warn: Say) -> StableDiffusion:
    """The frozen model, with base_weights merged in and set up as the settings say."""
    dtype = compute_dtype(settings, device)
    vae_dtype = torch.float32 if settings.no_half_vae else dtype
    model = load_model(settings.pretrained_model_name_or_path, dtype, device, settings.vae or None, vae_dtype)
    for i, path in enumerate(settings.base_weights):
        strengths = settings.base_weights_multiplier
        merge_into(model, read_lora(path)[0], strengths[i] if i < len(strengths) else 1.0)
    for warning in prepare(model, settings):
        warn(warning)
    return model


def _latents(
    model: StableDiffusion,
    dataset: Dataset,
    settings: TrainSettings,
    processes: Processes,
    stop: Callable[[], bool],
    emit: Listener,
    warn: Say,
) -> Latents:
    """Latents of all pictures. Where they are kept on disk, each process first encodes its share for all of them."""

    def prepared(of: Dataset, told: Callable[[int, int], None], warn: Say) -> Latents | None:
        try:
            return prepare_latents(model, of, settings, progress=told, stop=stop, warn=warn)
        except Stopped:
            return None

    if processes.count > 1 and settings.cache_latents_to_disk:
        with suppress(UserError):  # what is wrong is told below
            prepared(_share(dataset, processes), lambda *_: None, lambda _: None)
        processes.wait()
    latents = processes.together(lambda: prepared(dataset, _counting("pictures", emit), warn))
    if processes.agree(latents is None):
        raise Stopped
    assert latents is not None
    return latents


def _share(dataset: Dataset, processes: Processes) -> Dataset:
    """The pictures in use that this process encodes."""
    used = {use.picture.path for use in dataset.uses()}

    def share(concept: Concept) -> Concept:
        pictures = [picture for picture in concept.pictures if picture.path in used]
        return replace(concept, pictures=tuple(pictures[processes.rank :: processes.count]), is_reg=False)

    return replace(dataset, concepts=tuple(map(share, dataset.concepts)))


def _network(model: StableDiffusion, settings: TrainSettings, warn: Say) -> LoraNetwork:
    """The adapters, with the weights of network_weights where given."""
    network = LoraNetwork.create(model, spec_of(settings, model.family), settings.seed)
    if settings.network_weights:
        only = network.load(read_lora(settings.network_weights)[0], partial=True)
        if only:
            warn(f"network_weights: {len(only)} tensors are only there or only in this network, such as {only[0]}")
    return network


def _counting(what: str, emit: Listener) -> Callable[[int, int], None]:
    return lambda done, total: emit(event("cache", what=what, done=done, total=total))


def _together(training: Dataset, held_out: Dataset | None) -> Dataset:
    """One dataset with the pictures to train on and those to measure with."""
    return replace(training, concepts=training.concepts + held_out.concepts) if held_out else training


def _apart(dataset: Dataset, learnt: int) -> tuple[Dataset, Dataset | None]:
    """The two again, of what is left of them together: the first `learnt` concepts are trained on."""
    training = replace(dataset, concepts=dataset.concepts[:learnt])
    held_out = replace(dataset, concepts=dataset.concepts[learnt:])
    if not training.picture_count:
        raise UserError("no picture is left to train on", where=dataset.root, remedy="Look at the pictures")
    return training, held_out if held_out.picture_count else None


def _resumed(step: Step, training: Dataset, settings: TrainSettings, counts: Counts, warn: Say) -> Position:
    """Where to begin: at the start, or where a saved state ended."""
    if not settings.resume:
        return Position()
    state = load_state(settings.resume)
    for warning in state.warnings(settings, training.picture_count):
        warn(warning)
    for warning in state.restore(
        network=step.network, optimizer=step.optimizer, schedule=step.schedule, scaler=step.scaler, ema=step.ema
    ):
        warn(warning)
    at = Position(**state.position)
    step.watch.steps = at.done
    if at.done >= counts.steps:
        raise UserError(
            f"it was saved after {at.done} steps, and this run has {counts.steps}",
            where="resume",
            remedy="Give more max_train_epochs or max_train_steps",
        )
    return at


def _shared(settings: TrainSettings, dataset: Dataset) -> dict[str, object]:
    """What must be the same in all processes, by name; places of files may differ."""

    def plain(value: object) -> object:
        return [plain(one) for one in value] if isinstance(value, list) else Path(str(value)).name

    told = {name: plain(value) for name, value in asdict(settings).items() if not name.endswith("_dir")}
    uses = [(use.picture.path.name, use.picture.caption, use.repeats) for use in dataset.uses()]
    checkpoint = Path(settings.pretrained_model_name_or_path).stat().st_size
    return told | {
        "checkpoint (its size)": checkpoint,
        "pictures and captions": hashlib.sha256(repr(uses).encode()).hexdigest(),
    }


def _release(model: StableDiffusion, latents: Latents, text: TextCache | None, settings: TrainSettings) -> None:
    """Give back the memory of what the run no longer needs."""
    idle = [] if latents.needs_vae else [model.vae]
    if text and text.complete:
        idle += list(model.text_encoders.values())
    for module in idle:
        module.to("cpu" if settings.sample_prompts else "meta")


def _facts(
    settings: TrainSettings,
    training: Dataset,
    held_out: Dataset | None,
    counts: Counts,
    at: Position,
    processes: Processes,
) -> dict[str, Any]:
    """What the start event says."""
    buckets = [{"size": list(b.size), "count": b.count, "batches": b.batches} for b in fill(training)]
    return {
        "steps": counts.steps,
        "epochs": counts.epochs,
        "steps_per_epoch": counts.steps_per_epoch,
        "done": at.done,
        "pictures": training.picture_count,
        "held_out": counts.held_out,
        "buckets": buckets,
        "estimate": estimate(settings, plan(settings, training), gpu=processes.device.type == "cuda").as_dict(),
        "device": str(processes.device),
        "processes": processes.count,
    }


def _validation(
    step: Step,
    training: Dataset,
    held_out: Dataset | None,
    latents: Latents,
    text: TextCache | None,
    settings: TrainSettings,
) -> Validation | None:
    """Measuring on fixed pictures, where any are held out or it is asked for."""
    if not (held_out or settings.validate_every_n_epochs or settings.validate_every_n_steps):
        return None
    plain = replace(neutral(settings), gradient_accumulation_steps=1)

    def batches(dataset: Dataset) -> Iterator[Batch]:
        for window in TrainingData(fixed(dataset, settings), latents, plain, text=text).epoch(1):
            yield from window

    return Validation(step.measured(plain), list(batches(training)), list(batches(held_out)) if held_out else [], plain)


class _Nobody:
    """The saver and the report of all processes but one."""

    files: tuple[()] = ()
    stalled = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def _silent(_: Event) -> None:
    """The listener of all processes but one."""
