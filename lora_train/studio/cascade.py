"""OpenCV's cascades of Haar features or local binary patterns, read from its XML files and looked through by numpy.

Same windows, features and votes as OpenCV's; a window is a square that is moved over the picture at several sizes.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats: TypeAlias = "NDArray[np.float64]"
Indices: TypeAlias = "NDArray[np.int64]"

_GLANCE = 6  # stages that every second window is asked
_FLAT = 10.0  # of grey levels: windows whose tones vary no more hold nothing
_NEIGHBOURS = (7, 6, 5, 0, 4, 1, 2, 3)  # bit of a pattern that block (row by row, without the middle) of 3 x 3 sets
_ALIKE = 0.2  # of a side: how far two windows of one find may lie apart


@dataclass(frozen=True)
class Windows:
    """Squares found: left, top and side in pixels [n, 3], how many windows agreed on each, and their surest vote."""

    squares: Floats
    agreed: Indices
    votes: Floats


@dataclass(frozen=True)
class _Tree:
    """nodes [n, 2] tell where to go (below 0 or equal: to leaf -value), features and limits belong to them.

    A limit is a threshold, or the 8 x 32 bits of the patterns that go left.
    """

    nodes: Indices
    features: Indices
    limits: Floats | NDArray[np.uint32]
    leaves: Floats


@dataclass(frozen=True)
class _Stage:
    least: float
    trees: tuple[_Tree, ...]


class Cascade:
    """A cascade's file: `.xml`, or that as `.gz`. Raises ValueError for what can't be read as one."""

    def __init__(self, file: Path) -> None:
        try:
            raw = file.read_bytes()
            root = ElementTree.fromstring(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).find("cascade")
            if root is None or root.find("stages") is None:
                raise ValueError("it holds no cascade of OpenCV's")
            kind = _text(root, "featureType")
            if kind not in ("HAAR", "LBP"):
                raise ValueError(f"its features are {kind}, not HAAR or LBP")
            self.patterns = kind == "LBP"
            self.side = int(_text(root, "width"))
            if int(_text(root, "height")) != self.side:
                raise ValueError("its window is no square")
            self.features = [self._feature(node) for node in root.findall("features/_")]
            self.stages = [self._stage(node) for node in root.findall("stages/_")]
        except (OSError, EOFError, ElementTree.ParseError, AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"it can't be read ({error})") from error

    def _feature(self, node: ElementTree.Element) -> tuple[Indices, Floats]:
        """(corners [k, 2] as y, x; how much the sum up to each counts [k] or, of a pattern, [9, k])."""
        if self.patterns:
            x, y, w, h = (int(value) for value in _text(node, "rect").split())
            boxes = [(x + column * w, y + row * h, w, h) for row in range(3) for column in range(3)]
            weights = [1.0] * 9
        else:
            if node.findtext("tilted", "0").strip() != "0":
                raise ValueError("it has tilted features")
            rows = [row.text.split() for row in node.findall("rects/_") if row.text]
            boxes = [(int(r[0]), int(r[1]), int(r[2]), int(r[3])) for r in rows]
            weights = [float(row[4]) for row in rows]
        corners = sorted({(y + dy, x + dx) for x, y, w, h in boxes for dy in (0, h) for dx in (0, w)})
        if not corners or min(min(c) for c in corners) < 0 or max(max(c) for c in corners) > self.side:
            raise ValueError("a feature lies outside its window")
        place = {corner: number for number, corner in enumerate(corners)}
        counts = np.zeros((len(boxes), len(corners)))
        for number, ((x, y, w, h), weight) in enumerate(zip(boxes, weights, strict=True)):
            for dy, dx, sign in ((0, 0, 1), (0, w, -1), (h, 0, -1), (h, w, 1)):
                counts[number, place[(y + dy, x + dx)]] += sign * weight
        return np.array(corners), counts if self.patterns else counts.sum(axis=0)

    def _stage(self, node: ElementTree.Element) -> _Stage:
        trees = [self._tree(one) for one in node.findall("weakClassifiers/_")]
        return _Stage(float(_text(node, "stageThreshold")) - 1e-5, tuple(trees))

    def _tree(self, node: ElementTree.Element) -> _Tree:
        numbers = _text(node, "internalNodes").split()
        width = 11 if self.patterns else 4
        rows = [numbers[n : n + width] for n in range(0, len(numbers), width)]
        nodes = np.array([[int(row[0]), int(row[1])] for row in rows])
        features = np.array([int(row[2]) for row in rows])
        leaves = np.array([float(value) for value in _text(node, "leafValues").split()])
        if features.max() >= len(self.features) or nodes.max() >= len(rows) or -nodes.min() >= len(leaves):
            raise ValueError("a tree of it is broken")
        if self.patterns:
            words = np.array([[int(value) & 0xFFFFFFFF for value in row[3:]] for row in rows], dtype=np.uint32)
            return _Tree(nodes, features, words, leaves)
        return _Tree(nodes, features, np.array([float(row[3]) for row in rows]), leaves)

    def look(
        self, picture: Image.Image, least: float, most: float = np.inf, factor: float = 1.1, agree: int = 4
    ) -> Windows:
        """The squares of a picture of mode L, with sides from `least` to `most` pixels, on which `agree` windows agree.

        factor: between two sizes of the window.
        """
        sheet = _Sheet(picture, self.side, least, most, factor)
        at, votes = self._passing(sheet)
        return _grouped(sheet.squares(at, votes), agree)

    def _passing(self, sheet: _Sheet) -> tuple[Indices, Floats]:
        """First pixels of the windows that pass every stage, and their votes in the last one.

        Every second window is asked first; those beside one that gets through some stages, afterwards.
        """
        coarse, _ = self._left(sheet, sheet.windows(), self.stages[:_GLANCE])
        return self._left(sheet, sheet.beside(coarse), self.stages)

    def _left(self, sheet: _Sheet, at: Indices, stages: list[_Stage]) -> tuple[Indices, Floats]:
        norms = np.ones(len(at))
        if not self.patterns:
            at, norms = sheet.varied(at, _FLAT)
        votes = np.zeros(len(at))
        for stage in stages:
            votes = np.full(len(at), -stage.least)
            for tree in stage.trees:
                votes += self._vote(tree, sheet, at, norms)
            passed = votes >= 0
            at, norms, votes = at[passed], norms[passed], votes[passed]
        return at, votes

    def _vote(self, tree: _Tree, sheet: _Sheet, at: Indices, norms: Floats) -> Floats:
        """What a tree says of the windows."""
        left = []
        for feature, limit in zip(tree.features, tree.limits, strict=True):
            corners, counts = self.features[feature]
            offsets = corners[:, 0] * sheet.row + corners[:, 1]
            if not self.patterns:
                left.append(_summed(sheet.sums, at, offsets, counts) < limit * norms)
                continue
            blocks = sheet.sums[at[:, None] + offsets] @ counts.T
            others = np.delete(blocks, 4, axis=1) >= blocks[:, 4:5]
            codes = (others << np.array(_NEIGHBOURS)).sum(axis=1)
            left.append((limit[codes >> 5] >> (codes & 31).astype(np.uint32)) & 1 == 1)
        where = np.where(left[0], *tree.nodes[0])
        for number in range(1, len(tree.nodes)):
            where = np.where(where == number, np.where(left[number], *tree.nodes[number]), where)
        leaves: Floats = tree.leaves[-where]
        return leaves


class _Sheet:
    """A picture at all sizes, one below the other in rows of one length, as sums over all that is left of and above.

    A window's place in it, which is where its first pixel lies, tells all of them what to add up.
    """

    def __init__(self, picture: Image.Image, side: int, least: float, most: float, factor: float) -> None:
        self.levels: list[tuple[int, int, int, float]] = []  # first row, height, width, scale
        greys: list[NDArray[np.uint8]] = []
        scale, top = max(1e-3, least / side), 0
        while scale * side <= min(most, *picture.size):
            size = round(picture.width / scale), round(picture.height / scale)
            if min(size) < side:
                break
            small = picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
            greys.append(np.asarray(small))
            self.levels.append((top, size[1], size[0], scale))
            top += size[1] + 1
            scale *= factor
        self.side = side
        self.row = max((width for _, _, width, _ in self.levels), default=0) + 1
        sums, squares = np.zeros((top, self.row)), np.zeros((top, self.row))
        for (first, height, width, _), grey in zip(self.levels, greys, strict=True):
            part = slice(first + 1, first + 1 + height), slice(1, width + 1)
            values = grey.astype(np.float64)
            sums[part], squares[part] = values.cumsum(0).cumsum(1), (values * values).cumsum(0).cumsum(1)
        self.sums, self._squares = sums.ravel(), squares.ravel()

    def windows(self) -> Indices:
        """Every second window of every second row."""
        parts = []
        for first, height, width, _ in self.levels:
            rows = np.arange(first, first + height - self.side + 1, 2)
            parts.append((rows[:, None] * self.row + np.arange(0, width - self.side + 1, 2)).ravel())
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def beside(self, at: Indices) -> Indices:
        """These windows and those one pixel to the right, below, and both."""
        wide = np.unique(at[:, None] + np.array([0, 1, self.row, self.row + 1]))
        level = self._levels(wide)
        ends = np.array([(first + height - self.side, width - self.side) for first, height, width, _ in self.levels])
        ends = ends.reshape(-1, 2)[level]
        return wide[(wide // self.row <= ends[:, 0]) & (wide % self.row <= ends[:, 1])]

    def varied(self, at: Indices, flat: float) -> tuple[Indices, Floats]:
        """(the windows whose tones deviate by more than `flat`, area times deviation)."""
        inner = self.side - 2
        offsets = np.array([y * self.row + x for y in (1, 1 + inner) for x in (1, 1 + inner)])
        signs = np.array([1.0, -1.0, -1.0, 1.0])
        total, square = (_summed(values, at, offsets, signs) for values in (self.sums, self._squares))
        spread = inner * inner * square - total * total
        varied = spread > (flat * inner * inner) ** 2
        return at[varied], np.sqrt(spread[varied])

    def _levels(self, at: Indices) -> Indices:
        starts = np.array([first for first, _, _, _ in self.levels], dtype=np.int64)
        return np.searchsorted(starts, at // self.row, side="right") - 1

    def squares(self, at: Indices, votes: Floats) -> Floats:
        """[n, 4]: left, top and side in pixels of the picture, and the vote."""
        level = self._levels(at)
        scales = np.array([scale for _, _, _, scale in self.levels])[level]
        tops = at // self.row - np.array([first for first, _, _, _ in self.levels], dtype=np.int64)[level]
        return np.stack([at % self.row * scales, tops * scales, self.side * scales, votes], axis=1)


def _summed(sums: Floats, at: Indices, offsets: Indices, counts: Floats) -> Floats:
    total = np.zeros(len(at))
    for offset, count in zip(offsets, counts, strict=True):
        if count:
            part = sums.take(at + offset)
            total += part if count == 1 else count * part
    return total


def _grouped(found: Floats, agree: int) -> Windows:
    """Windows that lie close together as one, where enough do; of those over each other the one with most."""
    groups: list[list[int]] = []
    means: list[Floats] = []
    for number in np.argsort(-found[:, 3]):
        left, top, side = found[number, :3]
        for group, mean in zip(groups, means, strict=True):
            far = (left - mean[0], top - mean[1], left + side - mean[0] - mean[2], top + side - mean[1] - mean[2])
            if max(abs(value) for value in far) <= _ALIKE * min(side, mean[2]):
                group.append(int(number))
                mean += (found[number, :3] - mean) / len(group)
                break
        else:
            groups.append([int(number)])
            means.append(found[number, :3].copy())
    kept: list[int] = []
    for number in sorted(range(len(groups)), key=lambda n: -len(groups[n])):
        if len(groups[number]) >= agree and not any(_over(means[number], means[other]) for other in kept):
            kept.append(number)
    squares = np.array([means[number] for number in kept]).reshape(-1, 3)
    counts = np.array([len(groups[number]) for number in kept], dtype=np.int64)
    return Windows(squares, counts, np.array([found[groups[number], 3].max() for number in kept]))


def _over(one: Floats, other: Floats) -> bool:
    """Whether the middle of either lies in the other."""
    far = np.abs(one[:2] + one[2] / 2 - other[:2] - other[2] / 2).max()
    return bool(far < max(one[2], other[2]) / 2)


def _text(node: ElementTree.Element, name: str) -> str:
    found = node.findtext(name)
    if found is None:
        raise ValueError(f"it has no {name}")
    return found.strip()
