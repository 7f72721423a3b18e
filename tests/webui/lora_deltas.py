"""What a WebUI's own code makes of LoRA files. Run by its Python in its folder: `lora_deltas.py OUT FLAGS…`, its flags.

Writes OUT/deltas.safetensors, the change of each module's weights under "file/module", and OUT/report.json. OpenCLIP
models described in OUT/open_clip are known besides its own.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class Ear(logging.Handler):
    """Hears what the WebUI tells of a LoRA in its log alone: keys that match nothing, layers that failed."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Network "):
            self.heard.append(text)


def main(out: Path, flags: list[str]) -> None:
    """Start what of the WebUI is needed, then look at each file of its LoRA folder."""
    sys.argv = ["webui.py", *flags]
    sys.path.insert(0, str(Path.cwd()))
    from modules import initialize

    initialize.imports()
    import open_clip

    for description in (out / "open_clip").glob("*.json"):
        open_clip.add_model_config(description)
    initialize.initialize()
    from modules import script_callbacks, shared

    script_callbacks.before_ui_callback()
    model = shared.sd_model  # loads it
    assert model.used_config == str(Path(shared.cmd_opts.ckpt).with_suffix(".yaml")), model.used_config
    import networks
    from ui_extra_networks_lora import ExtraNetworksPageLora

    ear = Ear()
    logging.getLogger().addHandler(ear)
    logging.getLogger().setLevel(logging.DEBUG)
    shown = {item["name"] for item in ExtraNetworksPageLora().list_items()}
    deltas, report = {}, {}
    for name, file in list(networks.available_networks.items()):
        ear.heard.clear()
        before = weights(model)
        use(networks, model, [name])
        after = weights(model)
        [net] = networks.loaded_networks
        changes = {key: module.calc_updown(before[key])[0] for key, module in net.modules.items()}
        use(networks, model, [])
        restored = weights(model)
        deltas |= {
            f"{name}/{net.modules[key].network_key.partition('.')[0]}": change.float().contiguous()
            for key, change in changes.items()
        }
        report[name] = {
            "log": list(ear.heard),
            "wrong": [
                key for key in after if not torch.allclose(after[key], before[key] + changes.get(key, 0), atol=1e-6)
            ],
            "restored": all(torch.equal(restored[key], before[key]) for key in before),
            "version": file.sd_version.name,
            "shown": name in shown,
            "alias": file.alias,
            "metadata": file.metadata,
        }
    save_file(deltas, out / "deltas.safetensors")
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")


def layers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The layers that get LoRAs when they run. OpenCLIP's attention uses its out_proj without running it."""
    found = model.network_layer_mapping
    inner = {id(layer.out_proj) for layer in found.values() if isinstance(layer, nn.MultiheadAttention)}
    for name, layer in found.items():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)) and id(layer) not in inner:
            yield name, layer


def weights(model: Any) -> dict[str, Tensor]:
    """Copies of all weights that can change, under the names that the WebUI gives a LoRA's modules."""
    found = {}
    for name, layer in layers(model):
        if isinstance(layer, nn.MultiheadAttention):
            for letter, part in zip("qkv", layer.in_proj_weight.chunk(3), strict=True):
                found[f"{name}_{letter}_proj"] = part.clone()
            found[f"{name}_out_proj"] = layer.out_proj.weight.clone()
        else:
            found[name] = layer.weight.clone()
    return found


def use(networks: Any, model: Any, names: list[str]) -> None:
    """Load these LoRAs at full strength and apply them, as layers do when they run."""
    networks.load_networks(names, [1.0] * len(names), [1.0] * len(names), [None] * len(names))
    for _, layer in layers(model):
        networks.network_apply_weights(layer)


if __name__ == "__main__":
    with torch.no_grad():
        main(Path(sys.argv[1]), sys.argv[2:])
