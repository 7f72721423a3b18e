"""Weights in captions, "(word:1.3)" and "[word]", as sd-scripts' weighted_captions and the WebUI read them."""

from __future__ import annotations

import re

_PIECE = re.compile(r"\\[()\[\]\\]|\\|[()\[\]]|:(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\)|[^\\()\[\]:]+|:")
_STRONGER = 1.1


def parse(caption: str) -> list[tuple[str, float]]:
    """Pieces of a caption with their weights; neighbours differ in weight.

    (a) is 1.1, (a:1.3) is 1.3, [a] is 1 / 1.1, and nested ones multiply; a bracket left open reaches to the end;
    a backslash makes a bracket an ordinary character.
    """
    texts: list[str] = []
    weights: list[float] = []
    starts: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        for index in range(starts[bracket].pop(), len(weights)):
            weights[index] *= factor

    for match in _PIECE.finditer(caption):
        piece = match[0]
        if piece in starts:
            starts[piece].append(len(texts))
        elif match["weight"] and starts["("]:
            close("(", float(match["weight"]))
        elif piece == ")" and starts["("]:
            close("(", _STRONGER)
        elif piece == "]" and starts["["]:
            close("[", 1 / _STRONGER)
        else:
            texts.append(piece[1:] if piece[0] == "\\" else piece)
            weights.append(1.0)
    for bracket, factor in (("(", _STRONGER), ("[", 1 / _STRONGER)):
        while starts[bracket]:
            close(bracket, factor)

    merged: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged
