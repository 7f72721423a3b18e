"""The training folder: which pictures it holds, with which captions and repeats."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from ..errors import UserError
from . import captions, images
from .pictures import Concept, Dataset, Picture

MAX_REPEATS = 10_000  # a larger number is a date in the folder's name, not a wish
PROJECT_FOLDERS = ("image", "img")
UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".eps", ".pdf", ".tga", ".ico", ".dng"}
)

_NUMBERED = re.compile(r"([0-9]+)_(.*)", re.DOTALL)
_NAMING = "Name the folder <repeats>_<name>, such as 10_{}"


def scan(
    folder: str | Path, caption_extension: str = ".txt", progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Find and describe the pictures of `folder` with the settings' defaults; `progress(done, total)` counts them.

    It holds <repeats>_<name> folders, or is a project with these in image/, or one of them, or has pictures itself.
    A project's reg/ holds regularisation pictures. What can't be used is left out and named in the warnings.
    Raises UserError where nothing is left.
    """
    return describe(*gather(folder, "", caption_extension), progress)


def gather(folder: str | Path, reg_folder: str | Path, caption_extension: str) -> tuple[Path, list[Source], list[str]]:
    """(root, folders to read, warnings) of a training folder and one of regularisation; "" there: a project's own.

    Raises UserError where one of them holds nothing.
    """
    root, extension = existing(folder), _ending(caption_extension)
    sources, warnings, own = _sources_of(root, extension)
    if str(reg_folder).strip():
        regs, notes, _ = _sources_of(existing(reg_folder, "reg_data_dir"), extension, is_reg=True)
        return root, sources + regs, warnings + notes
    if own:
        try:
            regs, notes, _ = _sources_of(own, extension, is_reg=True)
        except UserError as error:
            return root, sources, [f"{own.name}: not used for regularisation, since {error.what}", *warnings]
        return root, sources + regs, [f"{own.name}: its pictures are used for regularisation", *warnings, *notes]
    return root, sources, warnings


def describe(
    root: Path, sources: list[Source], warnings: list[str], progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """The pictures and captions of `sources`; `warnings` come first among the warnings. Raises UserError for none."""
    warnings = list(warnings)
    results = iter(_inspect_all([path for source in sources for path in source.listing.pictures], progress))
    concepts = []
    for source in sources:
        warnings += _left_out(source.listing)
        sizes = {path: next(results) for path in source.listing.pictures}
        pictures, notes = _pictures(source, sizes)
        warnings += notes
        if pictures:
            concepts.append(replace(source.concept, pictures=tuple(pictures)))
        else:
            warnings.append(f"{shown(source.concept.folder.name)}: no usable picture in it, the folder is left out")
    if all(concept.is_reg for concept in concepts):
        found = "; ".join(warnings)
        raise UserError(f"no picture in it can be used: {found}", where=root, remedy="Put PNG or JPEG pictures there")
    return Dataset(root, tuple(concepts), tuple(warnings))


# Which folders


@dataclass
class Listing:
    """What lies directly in a folder, sorted by name, without hidden files and those that systems leave behind."""

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # pictures of formats that aren't read
    irregular: list[str] = field(default_factory=list)  # named like pictures, but pipes, devices, broken links…
    folders: list[Path] = field(default_factory=list)
    others: dict[str, Path] = field(default_factory=dict)  # by NFC name: macOS and Linux write accents differently


@dataclass(frozen=True)
class Source:
    """A folder that is going to be read. concept: all that is known of it before its pictures are.

    The concept's name serves where a picture has no caption; for regularisation that is usual, and not mentioned.
    """

    listing: Listing
    concept: Concept
    extension: str


def _ending(caption_extension: str) -> str:
    """A caption file's ending with its dot. Raises UserError where none is given."""
    if not caption_extension.strip("."):
        raise UserError("no ending is given", where="caption_extension", remedy="Give one such as .txt")
    return "." + caption_extension.lstrip(".")


def source(folder: Path, concept: Concept, caption_extension: str) -> Source:
    """One folder as it is, whatever its name. Raises UserError when it can't be read."""
    return Source(list_folder(folder), concept, _ending(caption_extension))


def _sources_of(root: Path, extension: str, is_reg: bool = False) -> tuple[list[Source], list[str], Path | None]:
    """The folders of pictures that `root` means, warnings, and its reg/ folder where it is a project that has one."""
    found, warnings, own = _sources(list_folder(root))
    sources = [
        Source(listing, Concept(listing.folder, name, repeats, (), is_reg=is_reg), extension)
        for listing, repeats, name in found
    ]
    return sources, warnings, own


_Found = tuple[Listing, int, str]
"""A folder, its repeats and the words of its name."""


def existing(folder: str | Path, field: str = "train_data_dir") -> Path:
    """`folder` as an absolute path; raises UserError unless it is a folder. field: where it was given."""
    if not str(folder).strip():
        raise UserError("no folder is given", where=field, remedy="Give the folder that holds the pictures")
    name = shown(str(folder))
    try:
        path = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - resolve() would lose the names of links
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("there is no such folder", where=name, remedy="Check the path") from None
    except (OSError, ValueError, RuntimeError) as error:  # also: NUL in the path, ~ of an unknown user
        raise UserError(f"the folder can't be opened ({error})", where=name, remedy="Check the path") from None
    if not path.is_dir():
        raise UserError("it is a file, not a folder", where=name, remedy="Give the folder that the file lies in")
    return path


def list_folder(folder: Path) -> Listing:
    """Raises UserError when the folder can't be read."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(map(_entry, entries))
    except OSError as error:
        raise UserError(
            f"the folder can't be read ({error.strerror})", where=shown(str(folder)), remedy="Check its permissions"
        ) from error
    with _lock:
        entries_before, listing = _listings.get(str(folder), (None, Listing(folder)))
    if found != entries_before:
        listing = _sorted_in(folder, found)
    if len(found) >= _MANY:
        with _lock:
            _listings[str(folder)] = found, listing
            _listings.move_to_end(str(folder))
            while len(_listings) > _KEPT:
                _listings.popitem(last=False)
    return replace(
        listing,
        pictures=listing.pictures[:],
        unread=listing.unread[:],
        irregular=listing.irregular[:],
        folders=listing.folders[:],
        others=dict(listing.others),
    )


_MANY, _KEPT = 500, 8
_listings: OrderedDict[str, tuple[list[str], Listing]] = OrderedDict()
"""Of the latest large folders what was found: to make 20,000 paths takes ten times as long as to look again."""
_lock = Lock()


def _entry(entry: os.DirEntry[str]) -> str:
    """Its name and its kind, as one text: 20,000 tuples would keep the garbage collector busy."""
    try:
        kind = "d" if entry.is_dir() else "f" if entry.is_file() else ""
    except OSError:  # a loop of links
        kind = ""
    return f"{entry.name}\0{kind}"


def _sorted_in(folder: Path, found: list[str]) -> Listing:
    listing = Listing(folder)
    for name, _, kind in (one.partition("\0") for one in found):
        is_dir, is_file = kind == "d", kind == "f"
        if name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini"):
            continue
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path is slow, and there may be 10,000
        if is_dir:
            listing.folders.append(folder / name)
        elif suffix in images.SUFFIXES and is_file:
            listing.pictures.append(folder / name)
        elif suffix in images.SUFFIXES:
            listing.irregular.append(name)
        elif suffix in UNREAD_SUFFIXES:
            listing.unread.append(name)
        elif is_file:
            listing.others[_nfc(name)] = folder / name
    return listing


def _sources(listing: Listing, in_project: bool = False) -> tuple[list[_Found], list[str], Path | None]:
    """The folders to train on, warnings, a project's reg/. Raises UserError when there are none."""
    numbered = [folder for folder in listing.folders if _NUMBERED.fullmatch(folder.name)]
    inner = [folder for folder in listing.folders if folder.name.lower() in PROJECT_FOLDERS and not in_project]
    if numbered:
        return *_numbered(listing, numbered), None
    if inner:
        sources, warnings, _ = _sources(list_folder(inner[0]), in_project=True)
        regs = [f for f in listing.folders if f.name.lower() == "reg" and _has_entries(f)]
        return sources, _about_project(listing) + warnings, regs[0] if regs else None
    if listing.pictures or listing.unread or listing.irregular:
        return *_single(listing), None
    raise _nothing(listing)


def _numbered(listing: Listing, numbered: list[Path]) -> tuple[list[_Found], list[str]]:
    sources, warnings = [], []
    for folder in numbered:
        repeats, name = _parts(folder)
        if repeats == 0:
            warnings.append(f"{shown(folder.name)}: 0 repeats, the folder is left out")
            continue
        try:
            sources.append((list_folder(folder), repeats, name))
        except UserError as error:
            warnings.append(f"{error.where}: {error.what}, it is left out")
    if plain := [folder for folder in listing.folders if folder not in numbered]:
        warnings.append(
            f"left out, since the folder's name has no <repeats>_: {_names(folder.name for folder in plain)}"
        )
    if loose := listing.pictures:
        warnings.append(f"left out, since beside the <repeats>_<name> folders: {_names(path.name for path in loose)}")
    return sources, warnings


def _about_project(listing: Listing) -> list[str]:
    """Warnings about what lies in a project beside its folder of pictures."""
    if not listing.pictures:
        return []
    return [f"left out, since beside the image folder: {_names(path.name for path in listing.pictures)}"]


def _single(listing: Listing) -> tuple[list[_Found], list[str]]:
    """The folder itself as the one concept."""
    name = shown(listing.folder.name)
    if _NUMBERED.fullmatch(listing.folder.name):
        repeats, words = _parts(listing.folder)
        note = f"{name} is itself a <repeats>_<name> folder: it alone is trained, with {repeats} repeats"
        if repeats:
            return [(listing, repeats, words)], [note]
        raise UserError("its name says 0 repeats", where=shown(str(listing.folder)), remedy=_NAMING.format("name"))
    note = f"{name}: no repeats in the folder's name, so each picture is used once an epoch. {_NAMING.format(name)}"
    return [(listing, 1, listing.folder.name)], [note]


def _parts(folder: Path) -> tuple[int, str]:
    """(repeats, name) of a <repeats>_<name> folder; raises UserError for an absurd number."""
    match = _NUMBERED.fullmatch(folder.name)
    assert match is not None
    if len(match[1]) > 300 or int(match[1]) > MAX_REPEATS:
        what = f"the number before _ means repeats, and {match[1]} is over {MAX_REPEATS}"
        raise UserError(what, where=shown(str(folder)), remedy=_NAMING.format("name"))
    return int(match[1]), match[2]


def _nothing(listing: Listing) -> UserError:
    """No picture and no numbered folder here: say what there is instead."""
    found = []
    if listing.folders:
        found.append("folders without a number: " + _names(folder.name for folder in listing.folders))
    if listing.others:
        found.append("other files: " + _names(path.name for path in listing.others.values()))
    what = "no picture lies here. Found " + "; ".join(found) if found else "the folder is empty"
    remedy = "Put pictures there, or folders named <repeats>_<name>"
    if any(_has_pictures(folder) for folder in listing.folders):
        remedy = _NAMING.format(shown(next(folder.name for folder in listing.folders if _has_pictures(folder))))
    return UserError(what, where=shown(str(listing.folder)), remedy=remedy)


def _has_pictures(folder: Path) -> bool:
    try:
        return bool(list_folder(folder).pictures)
    except UserError:
        return False


def _has_entries(folder: Path) -> bool:
    try:
        listing = list_folder(folder)
    except UserError:
        return False
    return bool(listing.folders or listing.pictures)


# What is in a folder


def _left_out(listing: Listing) -> list[str]:
    """Warnings about files that are no candidates at all."""
    name = shown(listing.folder.name)
    warnings = []
    if listing.unread:
        warnings.append(f"{name}: left out, since only PNG, JPEG and the like are read: {_names(listing.unread)}")
    if listing.irregular:
        warnings.append(f"{name}: left out, since not regular files: {_names(listing.irregular)}")
    if deeper := [folder.name for folder in listing.folders if _has_pictures(folder)]:
        warnings.append(f"{name}: pictures in folders inside it aren't used: {_names(deeper)}")
    return warnings


_Inspected = tuple[int, int, str] | UserError


def _inspect_all(paths: list[Path], progress: Callable[[int, int], None] | None) -> list[_Inspected]:
    """Each picture's (width, height, note), or its error. Decoders leave Python's lock, so threads help."""
    results = []
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        for result in pool.map(_inspect, paths):
            results.append(result)
            if progress:
                progress(len(results), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _inspect(path: Path) -> _Inspected:
    try:
        return images.inspect(path)
    except UserError as error:
        return error


def _pictures(source: Source, results: dict[Path, _Inspected]) -> tuple[list[Picture], list[str]]:
    """The sound pictures of a folder with their captions, and one warning for each kind of trouble."""
    troubles: dict[str, list[str]] = {}
    pictures: list[Picture] = []
    for path, result in results.items():
        if isinstance(result, UserError):
            troubles.setdefault("left out", []).append(f"{shown(path.name)} ({result.what})")
            continue
        width, height, note = result
        caption, notes = _caption(source, path)
        pictures.append(Picture(path, caption, width, height))
        for trouble in filter(None, (note, *notes)):
            troubles.setdefault(trouble, []).append(shown(path.name))
    name = shown(source.listing.folder.name)
    return pictures, [
        f"{name}: {trouble}: {_count(names, len(results))}{listed(names, 20 if trouble == 'left out' else 5)}"
        for trouble, names in troubles.items()
    ]


def _caption(source: Source, picture: Path) -> tuple[str, list[str]]:
    """(caption, notes). Without a file the concept's name serves, as in kohya."""
    words, silent = source.concept.name, source.concept.is_reg
    serves = f'the folder\'s name, "{shown(words)}", serves' if words else "it stays empty"
    file = caption_file(source.listing, picture, source.extension)
    if file is None:
        return words, [] if silent and words else [f"no {source.extension} caption, {serves}"]
    try:
        caption, note = captions.read(file, source.concept.captions.wildcard)
    except UserError as error:
        return words, [f"the caption can't be used: {error.what}, {serves}"]
    return caption, [note, "" if caption else "empty caption"]


def caption_file(listing: Listing, picture: Path, extension: str) -> Path | None:
    """The caption's file; kohya also looks for the picture's name without its last four parts between _."""
    stem = picture.stem
    parts = stem.split("_")
    stems = [stem, "_".join(parts[:-4])] if len(parts) > 4 else [stem]
    return next((file for stem in stems if (file := listing.others.get(_nfc(stem + extension)))), None)


# Names in messages


def _nfc(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def shown(name: str) -> str:
    """A file's name as it can be printed and sent: line ends and undecodable bytes as escapes."""
    if name.isascii() and name.isprintable():
        return name
    printable = "".join(c if ord(c) >= 32 and c != "\x7f" else ascii(c)[1:-1] for c in name)
    return printable.encode("utf-8", "backslashreplace").decode()


def _names(names: Iterable[str]) -> str:
    return listed([shown(name) for name in names], 5)


def listed(names: list[str], limit: int) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _count(names: list[str], total: int) -> str:
    return f"{len(names)} of {total} pictures: "
