"""Trains the embedded checkpoint: `python -m tools.toy.train vae|text|encode|unet|export|all --work DIR`."""

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextModel

from lora_train.paths import MINI_CHECKPOINT
from tools.toy import data, models, tokens
from tools.toy.characters import ATTRIBUTES, parse_caption
from tools.toy.export import normalise_latents, write_checkpoint
from tools.toy.loop import DEVICE, fit, join_processes, load_average, save_atomically, share
from tools.toy.sampling import SCHEDULE

NUDGE_STEPS = 300
CAPTIONS = 2
MAX_SNR = 5.0


def train_vae(work: Path, steps: int) -> None:
    """L1 and L2 on whole pictures; the latents start out as the mean colours of their cells."""
    pixels, _ = data.draw_set(12_000, split_hair=0.2)
    batch = share(16)
    vae = models.make_vae()
    nn.init.constant_(vae.quant_conv.bias[4:], -6)

    def loss_of(step: int) -> Tensor:
        target = data.scaled(pixels[torch.randint(len(pixels), (batch,))].to(DEVICE))
        with torch.autocast(DEVICE.type, torch.bfloat16):
            latents = vae.encode(target).latent_dist
            output = vae.decode(latents.sample()).sample
        error = output.float() - target
        loss = error.abs().mean() + error.square().mean() + 1e-5 * latents.kl().mean()
        if step < NUDGE_STEPS:
            colours = F.avg_pool2d(target, 8)
            loss = loss + (1 - step / NUDGE_STEPS) * F.mse_loss(latents.mean[:, :3].float(), colours)
        return loss

    fit(vae, loss_of, steps, 1e-3, work / "vae.pt")


class Reader(nn.Module):
    """Reads the attributes out of text states by attention, one learned query each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTES), width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, 1 + len(tags)) for tags in ATTRIBUTES.values())

    def forward(self, states: Tensor) -> list[Tensor]:
        read, _ = self.attention(self.queries.expand(len(states), -1, -1), states, states, need_weights=False)
        return [head(read[:, index]) for index, head in enumerate(self.heads)]


def attribute_targets(captions: list[str]) -> Tensor:
    """For each attribute the number of the tag that the caption names, 0 for none: [attributes, B]."""
    named = [parse_caption(caption) for caption in captions]
    return torch.tensor(
        [[1 + tags.index(row[name]) if name in row else 0 for row in named] for name, tags in ATTRIBUTES.items()]
    )


def train_text(work: Path, steps: int) -> None:
    """The text encoder learns to keep the attributes apart; the reader is thrown away afterwards."""
    _, drawn = data.draw_set(4000, seed=2)
    batch = share(32)
    model = nn.ModuleDict({"encoder": models.make_text_encoder(), "reader": Reader(models.CLIP["hidden_size"])})

    def loss_of(step: int) -> Tensor:
        rng = random.Random(torch.initial_seed())
        captions = [data.noisy_caption(rng.choice(drawn), rng) for _ in range(batch)]
        targets = attribute_targets(captions).to(DEVICE)
        states = model["encoder"](tokens.encode(captions).to(DEVICE)).last_hidden_state
        guesses = model["reader"](states)
        return sum(F.cross_entropy(guess, target) for guess, target in zip(guesses, targets, strict=True))

    fit(model, loss_of, steps, 1e-3, work / "text.pt")


def load_text_encoder(work: Path) -> CLIPTextModel:
    model = nn.ModuleDict({"encoder": models.make_text_encoder(), "reader": Reader(models.CLIP["hidden_size"])})
    return load_average(model, work / "text.pt")["encoder"]


@torch.no_grad()
def encode_set(vae: AutoencoderKL, encoder: CLIPTextModel) -> tuple[Tensor, Tensor]:
    """Latents [N, 4, 8, 8] of all pictures, and states [N, CAPTIONS, 77, C] of some captions of each."""
    pixels, drawn = data.draw_set()
    rng = random.Random(3)
    latents, states = [], []
    for part in tqdm(torch.arange(len(drawn)).split(100), desc="encode"):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            latents.append(vae.encode(data.scaled(pixels[part].to(DEVICE))).latent_dist.mean.float())
        captions = [data.noisy_caption(drawn[index], rng) for index in part for _ in range(CAPTIONS)]
        encoded = encoder(tokens.encode(captions).to(DEVICE)).last_hidden_state
        states.append(encoded.half().unflatten(0, (len(part), CAPTIONS)))
    return torch.cat(latents), torch.cat(states)


def encode(work: Path, _steps: int) -> None:
    """Keeps the encoded set, and the autoencoder with its latents normalised, in a file."""
    path = work / "encoded.pt"
    rank, processes = join_processes()
    if rank == 0 and not path.exists():
        vae, encoder = load_average(models.make_vae(), work / "vae.pt"), load_text_encoder(work)
        latents, states = encode_set(vae, encoder)
        mean, scale = normalise_latents(vae, latents)
        latents = (latents - mean[:, None, None]) * (models.LATENT_SCALE / scale)[:, None, None]
        empty = encoder(tokens.encode([""]).to(DEVICE)).last_hidden_state.half()
        save_atomically({"vae": vae.state_dict(), "latents": latents, "states": states, "empty": empty}, path)
    if processes > 1:
        distributed.barrier()


def train_unet(work: Path, steps: int) -> None:
    """Noise prediction with min-SNR weights; a tenth of the captions is left empty."""
    encoded = torch.load(work / "encoded.pt", map_location=DEVICE)
    latents, states, empty = encoded["latents"], encoded["states"], encoded["empty"][0]
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod.to(DEVICE)
    unet = models.make_unet()
    batch = share(64)

    def loss_of(step: int) -> Tensor:
        choice = torch.randint(len(latents), (batch,), device=DEVICE)
        context = states[choice, torch.randint(CAPTIONS, (batch,), device=DEVICE)]
        context = torch.where(torch.rand(batch, 1, 1, device=DEVICE) < 0.1, empty, context).float()
        noise = torch.randn(batch, 4, 8, 8, device=DEVICE)
        times = torch.randint(len(alphas), (batch,), device=DEVICE)
        alpha = alphas[times][:, None, None, None]
        noisy = alpha.sqrt() * latents[choice] + (1 - alpha).sqrt() * noise
        error = (unet(noisy, times, context).sample - noise).square().mean(dim=(1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        return (error * (snr.clamp(max=MAX_SNR) / snr)).mean()

    fit(unet, loss_of, steps, 1e-3, work / "unet.pt")


def export(work: Path, path: Path = MINI_CHECKPOINT) -> None:
    """Writes what the stages have reached so far."""
    vae = models.make_vae()
    vae.load_state_dict(torch.load(work / "encoded.pt", map_location="cpu", mmap=True)["vae"])
    write_checkpoint(path, vae, load_text_encoder(work), load_average(models.make_unet(), work / "unet.pt"))


STAGES = {"vae": (train_vae, 1250), "text": (train_text, 720), "encode": (encode, 1), "unet": (train_unet, 1750)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "export", "all"])
    parser.add_argument("--work", type=Path, default=Path("runs/toy"), help="where the stages keep their state")
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for stage, (train, steps) in STAGES.items():
        if options.stage in (stage, "all"):
            torch.manual_seed(0)
            train(options.work, options.steps or steps)
    if options.stage in ("export", "all") and join_processes()[0] == 0:
        export(options.work)


if __name__ == "__main__":
    main()
