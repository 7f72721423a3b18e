"""Regularisation pictures: how often each is used so that they balance the pictures that are trained."""

from __future__ import annotations

from collections.abc import Sequence


def balance(train_images: int, reg: Sequence[tuple[int, int]]) -> list[list[int]]:
    """How often each regularisation picture is used in an epoch, for folders of (pictures, repeats).

    kohya's rule: the pictures are taken in order, each with its folder's repeats, until they are as many as
    `train_images` (pictures × repeats); what is left over isn't used. Where they are too few, all get one use more
    in turn. The sum is `train_images`, or up to repeats - 1 more. Folders without pictures or repeats get none.
    """
    uses = [0] * sum(pictures for pictures, _ in reg)
    repeats = [each for pictures, each in reg for _ in range(pictures)]
    missing = train_images
    for index, each in enumerate(repeats):
        if missing <= 0:
            break
        uses[index] = each
        missing -= each
    if uses and missing > 0:
        rounds, rest = divmod(missing, len(uses))
        uses = [use + rounds + (index < rest) for index, use in enumerate(uses)]
    counts = iter(uses)
    return [[next(counts) for _ in range(pictures)] for pictures, _ in reg]
