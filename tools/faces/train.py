"""Train the detector of drawn faces on what `draw` draws, and write lora_train/assets/faces/drawn.npz.

python -m tools.faces.train scenes SCENES.npz --first 0 --count 4000     (several at once, one a core)
python -m tools.faces.train net SCENES.npz ... --out drawn.npz
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .draw import scene, texture

SIZE, STRIDE, SIDE = 160, 8, 32.0
SIDES = (22.0, 48.0)
WIDTHS = ((3, 16, 2), (16, 24, 2), (24, 32, 1), (32, 48, 2), (48, 64, 1), (64, 64, 1))
"""Channels in, channels out and stride of each 3x3 convolution."""


class Net(nn.Module):
    """RGB of -1 to 1 to [n, 4, h / 8, w / 8]: logit, middle and logarithm of the side against 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out, stride in WIDTHS:
            layers += [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Conv2d(WIDTHS[-1][1], 4, 1)
        nn.init.zeros_(self.head.bias)
        self.head.bias.data[0] = -4

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures))

    def folded(self) -> dict[str, np.ndarray]:
        """Weights with the normalisation in them, half precision."""
        found = {}
        for n in range(len(WIDTHS)):
            conv, norm = self.body[3 * n], self.body[3 * n + 1]
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            found[f"{n}.weight"] = conv.weight * scale[:, None, None, None]
            found[f"{n}.bias"] = norm.bias - norm.running_mean * scale
        found["head.weight"], found["head.bias"] = self.head.weight, self.head.bias
        return {name: value.detach().numpy().astype(np.float16) for name, value in found.items()}

    def unfold(self, file: Path) -> None:
        """Begin with the weights of a file; the normalisation, in evaluation, only adds."""
        with np.load(file) as given, torch.no_grad():
            for n in range(len(WIDTHS)):
                conv, norm = self.body[3 * n], self.body[3 * n + 1]
                conv.weight.copy_(torch.from_numpy(given[f"{n}.weight"].astype(np.float32)))
                norm.bias.copy_(torch.from_numpy(given[f"{n}.bias"].astype(np.float32)))
                norm.weight.fill_(math.sqrt(1 + norm.eps))
            self.head.weight.copy_(torch.from_numpy(given["head.weight"].astype(np.float32)))
            self.head.bias.copy_(torch.from_numpy(given["head.bias"].astype(np.float32)))


def targets(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(what each cell should say [4, h, w], what each cell counts [h, w]); a face of side 0 is none."""
    cells = SIZE // STRIDE
    centres = (np.arange(cells) + 0.5) * STRIDE
    said, counts = np.zeros((4, cells, cells), np.float32), np.ones((cells, cells), np.float32)
    for x, y, side in faces:
        if side <= 0:
            continue
        dx, dy = (x - centres)[None, :], (y - centres)[:, None]
        away = np.hypot(dx, dy)
        fits = SIDES[0] - 1 <= side <= SIDES[1]
        counts[away < 0.42 * side] = 0
        if not fits:
            if side > SIDES[1] * 1.35:
                counts[away < 0.42 * side] = 1
            continue
        near = (away < 0.2 * side) | (away == away.min())
        if away.min() > STRIDE:
            continue
        counts[near] = 1
        said[0][near] = 1
        said[1][near] = np.broadcast_to(dx / SIDE, away.shape)[near]
        said[2][near] = np.broadcast_to(dy / SIDE, away.shape)[near]
        said[3][near] = math.log(side / SIDE)
    return said, counts


def scenes(out: Path, first: int, count: int) -> None:
    pictures, faces = np.zeros((count, SIZE, SIZE, 3), np.uint8), np.zeros((count, 3, 3), np.float32)
    for n in range(count):
        picture, found = scene(first + n, SIZE, SIDES)
        pictures[n] = np.asarray(picture)
        for k, face in enumerate(found):
            faces[n, k] = face
    np.savez(out, pictures=pictures, faces=faces)


def textures(out: Path, count: int, folder: Path | None) -> None:
    photographs = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())] if folder else []
    pictures = np.stack([np.asarray(texture(n, SIZE, photographs)) for n in range(count)])
    np.savez(out, pictures=pictures, faces=np.zeros((count, 3, 3), np.float32))


def train(files: list[Path], out: Path, epochs: int, start: Path | None = None, batch: int = 32) -> None:
    loaded = [np.load(file) for file in files]
    pictures = np.concatenate([one["pictures"] for one in loaded])
    made = [targets(f) for one in loaded for f in one["faces"]]
    said, counts = torch.from_numpy(np.stack([s for s, _ in made])), torch.from_numpy(np.stack([c for _, c in made]))
    torch.manual_seed(0)
    net, chance = Net(), np.random.default_rng(0)
    if start:
        net.unfold(start)
    held = len(pictures) // 20
    steps = epochs * ((len(pictures) - held) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3 if start else 4e-3, steps)
    net.train(start is None)  # what was folded stays so
    for epoch in range(epochs):
        start, total = time.time(), 0.0
        order = held + chance.permutation(len(pictures) - held)
        for rows in (order[n : n + batch] for n in range(0, len(order) - batch + 1, batch)):
            x = torch.from_numpy(pictures[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
            s, c = said[rows].clone(), counts[rows]
            if chance.random() < 0.5:
                x, s, c = x.flip(3), s.flip(3), c.flip(2)
                s[:, 1] *= -1
            gain, lift = (
                torch.from_numpy(chance.uniform(0.75, 1.25, (len(rows), 3, 1, 1)).astype(np.float32)),
                float(chance.normal(0, 0.08)),
            )
            x = x * gain + lift
            if chance.random() < 0.15:
                x = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
            loss = losses(net(x), s, c)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        net.eval()
        with torch.no_grad():
            x = torch.from_numpy(pictures[:held]).permute(0, 3, 1, 2).float() / 127.5 - 1
            score = net(x)[:, 0].sigmoid()
            hit = (score > 0.5) & (counts[:held] > 0)
            right = hit & (said[:held, 0] > 0)
            recall = float(right.sum() / (said[:held, 0] > 0).sum())
            told = f"{total / (len(order) // batch):.4f}, held-out cells: {recall:.3f} found"
            print(
                f"{epoch}: {told}, {float(right.sum() / hit.sum()):.3f} right, {time.time() - start:.0f} s", flush=True
            )
        np.savez_compressed(out, **net.folded())
        net.train(start is None)


def losses(found: Tensor, said: Tensor, counts: Tensor) -> Tensor:
    """Focal loss of the score, and of the box where there is a face."""
    wanted = said[:, 0]
    plain = F.binary_cross_entropy_with_logits(found[:, 0], wanted, reduction="none")
    sure = torch.exp(-plain)
    faces = (wanted * counts).sum().clamp(min=1)
    focal = (plain * (1 - sure) ** 2 * counts * (0.3 + 0.4 * wanted)).sum() / faces
    box = (
        F.smooth_l1_loss(found[:, 1:], said[:, 1:], reduction="none", beta=0.1).sum(1) * wanted * counts
    ).sum() / faces
    return focal * 2 + box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("scenes")
    one.add_argument("out", type=Path)
    one.add_argument("--first", type=int, default=0)
    one.add_argument("--count", type=int, default=4000)
    one = verbs.add_parser("textures")
    one.add_argument("out", type=Path)
    one.add_argument("--count", type=int, default=2500)
    one.add_argument("--photographs", type=Path)
    one = verbs.add_parser("net")
    one.add_argument("--start", type=Path)
    one.add_argument("scenes", type=Path, nargs="+")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    if args.verb == "scenes":
        scenes(args.out, args.first, args.count)
    elif args.verb == "textures":
        textures(args.out, args.count, args.photographs)
    else:
        train(args.scenes, args.out, args.epochs, args.start)


if __name__ == "__main__":
    main()
