"""Where the pictures come from: the folders of the settings, or sd-scripts' dataset file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..errors import UserError, UserErrors, raise_all
from ..files import read_table
from ..settings import TrainSettings
from . import buckets, folders, images
from .options import CaptionOptions, Frame
from .pictures import Concept, Dataset, Picture

# What a dataset file may say, and where: each table inherits from those around it, the outermost is the run's settings.
_SUBSET = {
    *("num_repeats", "class_tokens", "caption_extension", "flip_aug", "random_crop"),
    *("shuffle_caption", "caption_separator", "keep_tokens", "keep_tokens_separator", "secondary_separator"),
    *("enable_wildcard", "caption_prefix", "caption_suffix", "token_warmup_min", "token_warmup_step"),
    *("caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate"),
    *("color_aug", "face_crop_aug_range", "resize_interpolation", "custom_attributes", "cache_info"),
}
_DATASET = {
    *("resolution", "batch_size", "enable_bucket", "bucket_no_upscale", "bucket_reso_steps"),
    *("min_bucket_reso", "max_bucket_reso", "validation_seed", "validation_split", "network_multiplier"),
}
_SUBSET_ALONE = {"image_dir", "is_reg", "alpha_mask", "conditioning_data_dir", "metadata_file"}
_IN_SETTINGS = {"batch_size": "train_batch_size"}  # where the run's settings have another name
_REFUSED = {
    "color_aug": "changed colours aren't offered",
    "face_crop_aug_range": "crops around faces aren't offered",
    "resize_interpolation": "pictures are scaled as sd-scripts does without it",
    "metadata_file": "fine-tuning metadata aren't read; pictures with caption files are",
}
_RUN_ALONE = ("validation_seed", "validation_split")
_WITHOUT_EFFECT = ("custom_attributes", "cache_info")


def open_dataset(settings: TrainSettings, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The pictures that a run trains on, each with its options; `progress(done, total)` counts them.

    From dataset_config where one is given, else from train_data_dir and reg_data_dir (empty: a project's own reg/).
    Only headers are read. Raises UserError, or several together.
    """
    root, sources, warnings = _of_file(settings) if settings.dataset_config else _of_folders(settings)
    dataset = folders.describe(root, sources, warnings, progress)
    return _with_masks(_in_buckets(dataset))


def _of_folders(settings: TrainSettings) -> tuple[Path, list[folders.Source], list[str]]:
    root, sources, warnings = folders.gather(settings.train_data_dir, settings.reg_data_dir, settings.caption_extension)
    masks = _masks(settings.conditioning_data_dir, Path()) if settings.conditioning_data_dir else None
    found = []
    for source in sources:
        own = masks / source.concept.folder.name if masks else None
        at = None if source.concept.is_reg else own if own and own.is_dir() else masks
        found.append(replace(source, concept=_with_options(source.concept, settings, at)))
    return root, found, warnings


def _with_options(concept: Concept, settings: TrainSettings, masks: Path | None) -> Concept:
    """masked_loss without a folder of masks means the pictures' transparency."""
    return replace(
        concept,
        captions=CaptionOptions.of(settings),
        frame=Frame.of(settings),
        flip=settings.flip_aug,
        random_crop=settings.random_crop,
        alpha_mask=settings.alpha_mask or (settings.masked_loss and masks is None),
        masks=masks,
    )


# sd-scripts' dataset file


def _of_file(settings: TrainSettings) -> tuple[Path, list[folders.Source], list[str]]:
    file = Path(settings.dataset_config).expanduser().absolute()
    sources: list[folders.Source] = []
    warnings: list[str] = []
    errors: list[UserError] = []
    seen: set[tuple[int, Path]] = set()
    for number, place, values in _tables(_parsed(file), file, errors):
        try:
            source = _subset(values, place, file, settings, number)
        except UserError as error:
            errors += error.errors if isinstance(error, UserErrors) else [error]
            continue
        concept = source.concept
        warnings += [f"{place}: {name} has no effect here" for name in _WITHOUT_EFFECT if values.get(name)]
        if not concept.repeats:
            warnings.append(f"{place}: 0 repeats, {folders.shown(concept.folder.name)} is left out")
        elif (number, concept.folder) in seen:
            warnings.append(f"{place}: {folders.shown(concept.folder.name)} is there twice, the first is used")
        else:
            seen.add((number, concept.folder))
            sources.append(source)
    raise_all(errors)
    return file.parent, sources, warnings


def _parsed(file: Path) -> dict[str, Any]:
    if file.is_file() and file.suffix.lower() not in (".toml", ".json"):
        raise UserError("it is neither .toml nor .json", where=file, remedy="Name it as what it is")
    data = read_table(file, "Check dataset_config")
    if not isinstance(data, dict):
        raise UserError("it is no table", where=file, remedy="Begin with [general] or [[datasets]]")
    return data


def _tables(data: dict[str, Any], file: Path, errors: list[UserError]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number of the dataset, where it stands, all that holds for it) of every subset. Adds what is wrong to errors."""
    inherited = _SUBSET | _DATASET
    general = _table(data.get("general", {}), inherited, f"{file.name}, [general]", errors)
    errors += [
        _no_such(name, {"general", "datasets"}, file.name) for name in data if name not in ("general", "datasets")
    ]
    datasets = _list(data.get("datasets", []), f"{file.name}, datasets", errors)
    if not datasets and not errors:
        errors.append(UserError("it has no [[datasets]]", where=file, remedy="Add one with [[datasets.subsets]] in it"))
    for number, dataset in enumerate(datasets):
        place = f"{file.name}, [[datasets]] {number + 1}"
        own = _table(dataset, inherited | {"subsets"}, place, errors)
        subsets = _list(own.pop("subsets", []), place, errors)
        if not subsets:
            errors.append(UserError("it has no subsets", where=place, remedy="Add [[datasets.subsets]] with image_dir"))
        for index, subset in enumerate(subsets):
            at = f"{place}, subset {index + 1}"
            yield number, at, {**general, **own, **_table(subset, _SUBSET | _SUBSET_ALONE, at, errors)}


def _list(value: Any, place: str, errors: list[UserError]) -> list[Any]:
    if isinstance(value, list):
        return value
    errors.append(
        UserError("it is no list of tables", where=place, remedy="Write [[datasets]] and [[datasets.subsets]]")
    )
    return []


def _table(value: Any, known: set[str], place: str, errors: list[UserError]) -> dict[str, Any]:
    """The values that a table gives; null says nothing."""
    if not isinstance(value, dict):
        errors.append(UserError("it is no table", where=place, remedy="Write name = value lines"))
        return {}
    errors += [_no_such(name, known, place) for name in value if name not in known]
    return {name: entry for name, entry in value.items() if name in known and entry is not None}


def _no_such(name: str, known: set[str], place: str) -> UserError:
    if name in _SUBSET_ALONE:
        return UserError(f"{name} belongs to a subset", where=place, remedy="Move it under [[datasets.subsets]]")
    if name in _DATASET:
        return UserError(f"{name} belongs to a dataset", where=place, remedy="Move it under [[datasets]]")
    near = difflib.get_close_matches(name, known, 1)
    return UserError(
        f"there is no option {name}", where=place, remedy=f"Did you mean {near[0]}?" if near else "Remove it"
    )


def _subset(values: dict[str, Any], place: str, file: Path, run: TrainSettings, number: int) -> folders.Source:
    """One subset with everything that it inherits. Raises UserErrors that say where."""
    errors = [
        UserError(f"{name}: {why}", where=place, remedy="Remove it")
        for name, why in _REFUSED.items()
        if values.get(name)
    ]
    if values.get("network_multiplier", 1) != 1:
        errors.append(UserError("network_multiplier: only 1 is possible", where=place, remedy="Remove it"))
    errors += [
        UserError(f"{name} holds for the run as a whole", where=place, remedy="Give it among the run's settings")
        for name in _RUN_ALONE
        if values.get(name) and values[name] != getattr(run, name)
    ]
    raise_all(errors)
    folder = folders.existing(_path(_typed(values, "image_dir", str, "", place), file), "image_dir")
    settings = _settings(values, place, run)
    is_reg = _typed(values, "is_reg", bool, False, place)
    masks = values.get("conditioning_data_dir") or ("" if is_reg else run.conditioning_data_dir)
    repeats = _typed(values, "num_repeats", int, 1, place)
    if not 0 <= repeats <= folders.MAX_REPEATS:
        what = f"num_repeats {repeats} is out of range"
        raise UserError(what, where=place, remedy=f"Give a number from 0 to {folders.MAX_REPEATS}")
    name = _typed(values, "class_tokens", str, "", place)
    concept = Concept(folder, name, repeats, (), is_reg=is_reg, group=number)
    concept = _with_options(concept, settings, _masks(str(masks), file) if masks else None)
    return folders.source(folder, concept, settings.caption_extension)


def _settings(values: dict[str, Any], place: str, run: TrainSettings) -> TrainSettings:
    """The run's settings with those of a subset in their place."""
    given = {_IN_SETTINGS.get(name, name): value for name, value in values.items()}
    known = {name: given[name] for name in asdict(run) if name in given and name not in _RUN_ALONE}
    try:
        return settings_module.from_dict({**asdict(run), **known})[0]
    except UserError as error:
        single = error.errors if isinstance(error, UserErrors) else [error]
        names = {of_run: name for name, of_run in _IN_SETTINGS.items()}
        raise UserErrors(
            [UserError(e.what, where=f"{place}, {names.get(e.where or '', e.where)}", remedy=e.remedy) for e in single]
        ) from None


def _typed(values: dict[str, Any], name: str, kind: type, default: Any, place: str) -> Any:
    value = values.get(name, default)
    if type(value) is not kind:
        words = {str: "text", int: "a whole number", bool: "true or false"}[kind]
        raise UserError(f"{name} {value!r} is not {words}", where=place, remedy="Mend the value")
    return value


def _path(path: str, file: Path) -> str:
    """As sd-scripts takes it: from the working folder; and where nothing is there, from the file's folder."""
    beside = file.parent / Path(path).expanduser()
    return str(beside) if path and not Path(path).expanduser().exists() and beside.exists() else path


# Buckets and masks


def _in_buckets(dataset: Dataset) -> Dataset:
    """Without the pictures that get into no bucket; there are such only where nothing is enlarged."""
    warnings, concepts = list(dataset.warnings), []
    for concept in dataset.concepts:
        kept, out = [], []
        for picture in concept.pictures:
            try:
                buckets.fit((picture.width, picture.height), concept.frame)
                kept.append(picture)
            except UserError as error:
                out.append(f"{folders.shown(picture.path.name)} ({error.what})")
        if out:
            warnings.append(f"{folders.shown(concept.folder.name)}: left out: {folders.listed(out, 20)}")
        if kept:
            concepts.append(replace(concept, pictures=tuple(kept)))
    if all(concept.is_reg for concept in concepts):
        raise UserError("every picture is too small", where="bucket_no_upscale", remedy="Switch it off")
    return replace(dataset, concepts=tuple(concepts), warnings=tuple(warnings))


def _masks(folder: str, file: Path) -> Path:
    """The folder of masks. Raises UserError where there is none."""
    return folders.existing(_path(folder, file), "conditioning_data_dir")


def _with_masks(dataset: Dataset) -> Dataset:
    """Each picture with the mask of its name. Raises UserErrors for the folders that lack some, as sd-scripts does."""
    errors: list[UserError] = []
    concepts = []
    for concept in dataset.concepts:
        if concept.masks is None:
            concepts.append(concept)
            continue
        found = {path.stem: path for path in folders.list_folder(concept.masks).pictures[::-1]}
        pictures: list[Picture] = [replace(p, mask=found.get(p.path.stem)) for p in concept.pictures]
        concepts.append(replace(concept, pictures=tuple(pictures)))
        if missing := [folders.shown(p.path.name) for p in pictures if p.mask is None]:
            what = f"no mask for {len(missing)} of {len(pictures)} pictures: {folders.listed(missing, 5)}"
            remedy = f"Put pictures of the same names there ({', '.join(sorted(images.SUFFIXES))})"
            errors.append(UserError(what, where=concept.masks, remedy=remedy))
    raise_all(errors)
    return replace(dataset, concepts=tuple(concepts))
