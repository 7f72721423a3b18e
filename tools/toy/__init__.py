"""The embedded checkpoint: drawn characters, a Stable Diffusion 1.5 in miniature that learns them, and its measure."""
