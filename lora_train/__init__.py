"""Train LoRA: prepare, train, compare and bake LoRAs for Stable Diffusion."""

__version__ = "0.1.0"
