"""A stand-in for A1111's Lora extension: its modules `networks` and `network`, on a checkpoint of four layers."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

LAYERS = {
    "transformer_text_model_encoder_layers_0_mlp_fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "diffusion_model_input_blocks_1_1_proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
    "diffusion_model_output_blocks_5_1_proj_in": "lora_unet_up_blocks_1_attentions_2_proj_in",
    "diffusion_model_out_2": "lora_unet_conv_out",
}


class NetworkModule:
    """As the extension's own: the text encoder's strength or the UNet's."""

    def __init__(self, net: Any, sd_key: str, network_key: str) -> None:
        self.network, self.sd_key, self.network_key = net, sd_key, network_key

    def multiplier(self) -> float:
        return self.network.te_multiplier if "transformer" in self.sd_key[:20] else self.network.unet_multiplier


class Extension(SimpleNamespace):
    """`networks`. sums: layers that were summed, in order; each has what the strengths come to in `value`."""

    def __init__(self, files: tuple[str, ...]) -> None:
        super().__init__(loaded_networks=[], sums=[], mtime=dict.fromkeys(files, 1.0))
        self.available_networks = {name: SimpleNamespace(filename=f"/loras/{name}.safetensors") for name in files}

    def load_networks(self, names: list[str], te: list[float], unet: list[float], dyn: list[Any]) -> None:
        """Those that are loaded are kept; all get plain strengths."""
        loaded = {net.name: net for net in self.loaded_networks}
        self.loaded_networks.clear()
        for n, name in enumerate(names):
            if name not in self.available_networks:
                continue
            net = loaded.get(name)
            if net is None or net.mtime != self.mtime[name]:
                file = self.available_networks[name]
                net = SimpleNamespace(name=name, mentioned_name=name, network_on_disk=file, mtime=self.mtime[name])
                net.modules = {key: NetworkModule(net, key, f"{own}.alpha") for key, own in LAYERS.items()}
            net.te_multiplier, net.unet_multiplier, net.dyn_dim = te[n], unet[n], dyn[n]
            self.loaded_networks.append(net)

    def network_apply_weights(self, layer: Any) -> None:
        """What a layer does before it runs."""
        wanted = tuple((x.name, x.te_multiplier, x.unet_multiplier, x.dyn_dim) for x in self.loaded_networks)
        if layer.network_current_names != wanted:
            layer.value = sum(net.modules[layer.network_layer_name].multiplier() for net in self.loaded_networks)
            layer.network_current_names = wanted
            self.sums.append(layer.network_layer_name)


def checkpoint() -> Any:
    layers = {name: SimpleNamespace(network_layer_name=name, network_current_names=(), value=0.0) for name in LAYERS}
    return SimpleNamespace(network_layer_mapping=layers, is_sd1=True, is_sdxl=False, is_sd2=False)


def install(patch: pytest.MonkeyPatch, webui: SimpleNamespace, *files: str) -> Extension:
    """Put it beside the stand-ins of the WebUI, with LoRAs of these names; the checkpoint is new."""
    extension, network = Extension(files), ModuleType("network")
    vars(network)["NetworkModule"] = NetworkModule
    patch.setitem(sys.modules, "networks", extension)  # type: ignore[arg-type]
    patch.setitem(sys.modules, "network", network)
    webui.sd_models.model_data.sd_model = checkpoint()
    return extension


def run(webui: SimpleNamespace) -> list[str]:
    """A picture: every layer runs. Returns those that were summed for it."""
    extension: Any = sys.modules["networks"]
    extension.sums.clear()
    for layer in webui.sd_models.model_data.sd_model.network_layer_mapping.values():
        extension.network_apply_weights(layer)
    return list(extension.sums)


def values(webui: SimpleNamespace) -> list[float]:
    """Of the layers: text encoder, IN01, OUT05, OTHER."""
    return [layer.value for layer in webui.sd_models.model_data.sd_model.network_layer_mapping.values()]
