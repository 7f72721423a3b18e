"""What a file is, said before anything is loaded."""

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lora_train.errors import UserError
from lora_train.model.checkpoint import Family, read_state_dict, recognise
from tests import support

SCALAR = torch.zeros(1)
PARTS = {"model.diffusion_model.x": SCALAR, "first_stage_model.x": SCALAR, "cond_stage_model.transformer.x": SCALAR}


def saved(path, *names):
    save_file({name: torch.zeros(1) for name in names}, path)
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return support.checkpoint(tmp_path_factory.mktemp("checkpoint") / "narrow.safetensors")


def test_sd15_of_any_width(narrow):
    assert recognise(narrow) is Family.SD15


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_x.lora_down.weight"], "this is a LoRA"),
        (["conditioner.embedders.0.x", "model.diffusion_model.x"], "SDXL"),
        (["cond_stage_model.model.x", "model.diffusion_model.x"], "SD2"),
        (["double_blocks.0.x"], "Flux"),
        (["first_stage_model.x", "encoder.conv_in.weight"], "VAE"),
        (["emb_params"], "textual inversion"),
        (["model.diffusion_model.x", "first_stage_model.x"], "lacks its text encoder"),
        (["model.diffusion_model.x", "cond_stage_model.transformer.x"], "lacks its VAE"),
        (["anything"], "not a checkpoint"),
        (list(PARTS), "inpainting"),
    ],
)
def test_other_files_are_named(tmp_path, names, message):
    with pytest.raises(UserError, match=message) as caught:
        recognise(saved(tmp_path / "other.safetensors", *names))
    assert "other.safetensors" in str(caught.value)


def test_missing_empty_html_cut_off(tmp_path, narrow):
    with pytest.raises(UserError, match="no such file"):
        recognise(tmp_path / "none.safetensors")
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(UserError, match="empty"):
        recognise(tmp_path / "empty.safetensors")
    for name in ("page.safetensors", "page.ckpt"):
        (tmp_path / name).write_text("<!DOCTYPE html><html>404</html>")
        with pytest.raises(UserError, match="HTML"):
            recognise(tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(narrow.read_bytes()[:-1000])
    with pytest.raises(UserError, match="1,000 bytes are missing"):
        recognise(tmp_path / "cut.safetensors")
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(UserError, match="ending"):
        recognise(tmp_path / "picture.png")


class Malicious:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_ckpt_is_read_without_running_anything_in_it(tmp_path):
    torch.save({"state_dict": PARTS}, tmp_path / "good.ckpt")
    assert read_state_dict(tmp_path / "good.ckpt").keys() == PARTS.keys()
    torch.save({"state_dict": PARTS, "callbacks": Malicious(str(tmp_path / "sentinel"))}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="not opened for safety"):
        recognise(tmp_path / "evil.ckpt")
    assert not (tmp_path / "sentinel").exists()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_user_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError):
        recognise(path)


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(
    st.dictionaries(
        st.text(max_size=8), json_values | st.dictionaries(st.sampled_from(["shape", "data_offsets"]), json_values)
    )
)
def test_any_header_gives_a_user_error(tmp_path_factory, header):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(UserError):
        recognise(path)
