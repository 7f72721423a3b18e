"""The training folder: which pictures it holds, with which captions and repeats."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from . import captions, images

MAX_REPEATS = 10_000  # a larger number is a date in the folder's name, not a wish
PROJECT_FOLDERS = ("image", "img")
UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".eps", ".pdf", ".tga", ".ico", ".dng"}
)

_NUMBERED = re.compile(r"([0-9]+)_(.*)", re.DOTALL)
_NAMING = "Name the folder <repeats>_<name>, such as 10_{}"


@dataclass(frozen=True)
class Picture:
    """One picture; width and height in pixels after its EXIF orientation is applied."""

    path: Path
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Concept:
    """One folder of pictures, each of which is used `repeats` times an epoch."""

    folder: Path
    name: str
    repeats: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Dataset:
    """All that is trained on, in sorted order, and what the user should know about it."""

    root: Path
    concepts: tuple[Concept, ...]
    warnings: tuple[str, ...]

    @property
    def picture_count(self) -> int:
        """Pictures, each counted once."""
        return sum(len(concept.pictures) for concept in self.concepts)

    @property
    def images_with_repeats(self) -> int:
        """Pictures of one epoch."""
        return sum(len(concept.pictures) * concept.repeats for concept in self.concepts)

    def samples(self) -> list[Picture]:
        """The pictures of one epoch, each as often as its folder says."""
        return [picture for concept in self.concepts for picture in concept.pictures for _ in range(concept.repeats)]


def scan(
    folder: str | Path, caption_extension: str = ".txt", progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Find, decode once and describe the pictures of `folder`; `progress(done, total)` counts them.

    It holds <repeats>_<name> folders, or is a project with these in image/, or one of them, or has pictures itself.
    What can't be used is left out and named in the warnings. Raises UserError where nothing is left.
    """
    if not caption_extension.strip("."):
        raise UserError("no ending is given", where="caption_extension", remedy="Give one such as .txt")
    root = _existing(folder)
    sources, warnings = _sources(_list(root))
    extension = "." + caption_extension.lstrip(".")
    results = iter(_inspect_all([path for source in sources for path in source.listing.pictures], progress))
    concepts = []
    for source in sources:
        warnings += _left_out(source.listing)
        sizes = {path: next(results) for path in source.listing.pictures}
        pictures, notes = _pictures(source, sizes, extension)
        warnings += notes
        if pictures:
            concepts.append(Concept(source.listing.folder, source.name, source.repeats, tuple(pictures)))
        else:
            warnings.append(f"{_shown(source.listing.folder.name)}: no usable picture in it, the folder is left out")
    if not concepts:
        raise UserError(
            "no picture in it can be used: " + "; ".join(warnings), where=root, remedy="Put PNG or JPEG pictures there"
        )
    return Dataset(root, tuple(concepts), tuple(warnings))


# Which folders


@dataclass
class _Listing:
    """What lies directly in a folder, sorted by name, without hidden files and those that systems leave behind."""

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # pictures of formats that aren't read
    irregular: list[str] = field(default_factory=list)  # named like pictures, but pipes, devices, broken links…
    folders: list[Path] = field(default_factory=list)
    others: dict[str, Path] = field(default_factory=dict)  # by NFC name: macOS and Linux write accents differently


@dataclass(frozen=True)
class _Source:
    listing: _Listing
    repeats: int
    name: str


def _existing(folder: str | Path) -> Path:
    """`folder` as an absolute path; raises UserError unless it is a folder."""
    if not str(folder).strip():
        raise UserError("no folder is given", where="train_data_dir", remedy="Give the folder that holds the pictures")
    shown = _shown(str(folder))
    try:
        path = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - resolve() would lose the names of links
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("there is no such folder", where=shown, remedy="Check the path") from None
    except (OSError, ValueError, RuntimeError) as error:  # also: NUL in the path, ~ of an unknown user
        raise UserError(f"the folder can't be opened ({error})", where=shown, remedy="Check the path") from None
    if not path.is_dir():
        raise UserError("it is a file, not a folder", where=shown, remedy="Give the folder that the file lies in")
    return path


def _list(folder: Path) -> _Listing:
    """Raises UserError when the folder can't be read."""
    listing = _Listing(folder)
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"the folder can't be read ({error.strerror})", where=_shown(str(folder)), remedy="Check its permissions"
        ) from error
    for entry in found:
        if not entry.name.startswith(".") and entry.name not in ("__MACOSX", "Thumbs.db", "desktop.ini"):
            _sort_in(listing, entry)
    return listing


def _sort_in(listing: _Listing, entry: os.DirEntry[str]) -> None:
    suffix = Path(entry.name).suffix.lower()
    try:
        is_dir, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a loop of links
        is_dir = is_file = False
    if is_dir:
        listing.folders.append(Path(entry.path))
    elif suffix in images.SUFFIXES and is_file:
        listing.pictures.append(Path(entry.path))
    elif suffix in images.SUFFIXES:
        listing.irregular.append(entry.name)
    elif suffix in UNREAD_SUFFIXES:
        listing.unread.append(entry.name)
    elif is_file:
        listing.others[_nfc(entry.name)] = Path(entry.path)


def _sources(listing: _Listing, in_project: bool = False) -> tuple[list[_Source], list[str]]:
    """The folders to train on and warnings. Raises UserError when there are none."""
    numbered = [folder for folder in listing.folders if _NUMBERED.fullmatch(folder.name)]
    inner = [folder for folder in listing.folders if folder.name.lower() in PROJECT_FOLDERS and not in_project]
    if numbered:
        return _numbered(listing, numbered)
    if inner:
        sources, warnings = _sources(_list(inner[0]), in_project=True)
        return sources, _about_project(listing) + warnings
    if listing.pictures or listing.unread or listing.irregular:
        return _single(listing)
    raise _nothing(listing)


def _numbered(listing: _Listing, numbered: list[Path]) -> tuple[list[_Source], list[str]]:
    sources, warnings = [], []
    for folder in numbered:
        repeats, name = _parts(folder)
        if repeats == 0:
            warnings.append(f"{_shown(folder.name)}: 0 repeats, the folder is left out")
            continue
        try:
            sources.append(_Source(_list(folder), repeats, name))
        except UserError as error:
            warnings.append(f"{error.where}: {error.what}, it is left out")
    if plain := [folder for folder in listing.folders if folder not in numbered]:
        warnings.append(
            f"left out, since the folder's name has no <repeats>_: {_names(folder.name for folder in plain)}"
        )
    if loose := listing.pictures:
        warnings.append(f"left out, since beside the <repeats>_<name> folders: {_names(path.name for path in loose)}")
    return sources, warnings


def _about_project(listing: _Listing) -> list[str]:
    """Warnings about what lies in a project beside its folder of pictures."""
    warnings = []
    if any(folder.name.lower() == "reg" and _has_entries(folder) for folder in listing.folders):
        warnings.append("reg: regularisation pictures aren't used")
    if listing.pictures:
        warnings.append(f"left out, since beside the image folder: {_names(path.name for path in listing.pictures)}")
    return warnings


def _single(listing: _Listing) -> tuple[list[_Source], list[str]]:
    """The folder itself as the one concept."""
    shown = _shown(listing.folder.name)
    if _NUMBERED.fullmatch(listing.folder.name):
        repeats, name = _parts(listing.folder)
        note = f"{shown} is itself a <repeats>_<name> folder: it alone is trained, with {repeats} repeats"
        if repeats:
            return [_Source(listing, repeats, name)], [note]
        raise UserError("its name says 0 repeats", where=_shown(str(listing.folder)), remedy=_NAMING.format("name"))
    note = f"{shown}: no repeats in the folder's name, so each picture is used once an epoch. {_NAMING.format(shown)}"
    return [_Source(listing, 1, listing.folder.name)], [note]


def _parts(folder: Path) -> tuple[int, str]:
    """(repeats, name) of a <repeats>_<name> folder; raises UserError for an absurd number."""
    match = _NUMBERED.fullmatch(folder.name)
    assert match is not None
    if len(match[1]) > 300 or int(match[1]) > MAX_REPEATS:
        what = f"the number before _ means repeats, and {match[1]} is over {MAX_REPEATS}"
        raise UserError(what, where=_shown(str(folder)), remedy=_NAMING.format("name"))
    return int(match[1]), match[2]


def _nothing(listing: _Listing) -> UserError:
    """No picture and no numbered folder here: say what there is instead."""
    found = []
    if listing.folders:
        found.append("folders without a number: " + _names(folder.name for folder in listing.folders))
    if listing.others:
        found.append("other files: " + _names(path.name for path in listing.others.values()))
    what = "no picture lies here. Found " + "; ".join(found) if found else "the folder is empty"
    remedy = "Put pictures there, or folders named <repeats>_<name>"
    if any(_has_pictures(folder) for folder in listing.folders):
        remedy = _NAMING.format(_shown(next(folder.name for folder in listing.folders if _has_pictures(folder))))
    return UserError(what, where=_shown(str(listing.folder)), remedy=remedy)


def _has_pictures(folder: Path) -> bool:
    try:
        return bool(_list(folder).pictures)
    except UserError:
        return False


def _has_entries(folder: Path) -> bool:
    try:
        listing = _list(folder)
    except UserError:
        return False
    return bool(listing.folders or listing.pictures)


# What is in a folder


def _left_out(listing: _Listing) -> list[str]:
    """Warnings about files that are no candidates at all."""
    shown = _shown(listing.folder.name)
    warnings = []
    if listing.unread:
        warnings.append(f"{shown}: left out, since only PNG, JPEG and the like are read: {_names(listing.unread)}")
    if listing.irregular:
        warnings.append(f"{shown}: left out, since not regular files: {_names(listing.irregular)}")
    if deeper := [folder.name for folder in listing.folders if _has_pictures(folder)]:
        warnings.append(f"{shown}: pictures in folders inside it aren't used: {_names(deeper)}")
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


def _pictures(source: _Source, results: dict[Path, _Inspected], extension: str) -> tuple[list[Picture], list[str]]:
    """The sound pictures of a folder with their captions, and one warning for each kind of trouble."""
    troubles: dict[str, list[str]] = {}
    pictures: list[Picture] = []
    for path, result in results.items():
        if isinstance(result, UserError):
            troubles.setdefault("left out", []).append(f"{_shown(path.name)} ({result.what})")
            continue
        width, height, note = result
        caption, notes = _caption(source, path, extension)
        pictures.append(Picture(path, caption, width, height))
        for trouble in filter(None, (note, *notes)):
            troubles.setdefault(trouble, []).append(_shown(path.name))
    shown = _shown(source.listing.folder.name)
    return pictures, [
        f"{shown}: {trouble}: {_count(names, len(results))}{_listed(names, 20 if trouble == 'left out' else 5)}"
        for trouble, names in troubles.items()
    ]


def _caption(source: _Source, picture: Path, extension: str) -> tuple[str, list[str]]:
    """(caption, notes). Without a file the words of the folder's name serve, as in kohya."""
    fallback = f'the folder\'s name, "{_shown(source.name)}", serves'
    file = _caption_file(source.listing, picture, extension)
    if file is None:
        return source.name, [f"no {extension} caption, {fallback}"]
    try:
        caption, note = captions.read(file)
    except UserError as error:
        return source.name, [f"the caption can't be used: {error.what}, {fallback}"]
    return caption, [note, "" if caption else "empty caption"]


def _caption_file(listing: _Listing, picture: Path, extension: str) -> Path | None:
    """The caption's file; kohya also looks for the picture's name without its last four parts between _."""
    parts = picture.stem.split("_")
    stems = [picture.stem, "_".join(parts[:-4])] if len(parts) > 4 else [picture.stem]
    return next((file for stem in stems if (file := listing.others.get(_nfc(stem + extension)))), None)


# Names in messages


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _shown(name: str) -> str:
    """A file's name as it can be printed and sent: line ends and undecodable bytes as escapes."""
    printable = "".join(c if ord(c) >= 32 and c != "\x7f" else ascii(c)[1:-1] for c in name)
    return printable.encode("utf-8", "backslashreplace").decode()


def _names(names: Iterable[str]) -> str:
    return _listed([_shown(name) for name in names], 5)


def _listed(names: list[str], limit: int) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _count(names: list[str], total: int) -> str:
    return f"{len(names)} of {total} pictures: "
