"""What a file is, said before anything is loaded."""

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lora_train.errors import UserError
from lora_train.model.checkpoint import UNET, VAE, Family, read_tensors, read_vae, recognise
from tests import support

SCALAR = torch.zeros(1)
PARTS = {"model.diffusion_model.x": SCALAR, "first_stage_model.x": SCALAR, "cond_stage_model.transformer.x": SCALAR}


def saved(path, *names):
    save_file({name: torch.zeros(1) for name in names}, path)
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return support.checkpoint(tmp_path_factory.mktemp("checkpoint") / "narrow.safetensors")


@pytest.mark.parametrize("family", Family)
def test_each_family_is_recognised_by_its_names(tmp_path, family):
    names = {name: torch.zeros(1) for name, _, _ in support.entries(family=family)}
    conv_in = {f"{UNET}input_blocks.0.0.weight": torch.zeros(1, 4, 1, 1)}
    save_file(names | conv_in, tmp_path / "model.safetensors")
    assert recognise(tmp_path / "model.safetensors") is family
    torch.save({"state_dict": names | conv_in}, tmp_path / "model.ckpt")
    assert recognise(tmp_path / "model.ckpt") is family


WHOLE = ["model.diffusion_model.x", "first_stage_model.x"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_x.lora_down.weight"], "this is a LoRA"),
        (["double_blocks.0.x"], "Flux"),
        (["model.diffusion_model.joint_blocks.0.x"], "SD3"),
        (["first_stage_model.x", "encoder.conv_in.weight"], "VAE"),
        (["emb_params"], "textual inversion"),
        (["control_model.input_hint_block.0.weight"], "ControlNet"),
        (["down_blocks.0.resnets.0.conv1.weight"], "diffusers' layout"),
        (WHOLE, "lacks its text encoder"),
        (["model.diffusion_model.x", "cond_stage_model.transformer.x"], "lacks its VAE"),
        ([*WHOLE, "conditioner.embedders.0.model.x"], "refiner"),
        ([*WHOLE, "conditioner.embedders.0.transformer.x"], "lacks one of its two text encoders"),
        ([*WHOLE, "cond_stage_model.model.x", "model.diffusion_model.label_emb.0.0.weight"], "unCLIP"),
        ([*WHOLE, "cond_stage_model.model.x"], "not that of Stable Diffusion"),
        (["anything"], "not a checkpoint"),
    ],
)
def test_other_files_are_named(tmp_path, names, message):
    with pytest.raises(UserError, match=message) as caught:
        recognise(saved(tmp_path / "other.safetensors", *names))
    assert "other.safetensors" in str(caught.value)


@pytest.mark.parametrize("text", ["cond_stage_model.transformer.x", "cond_stage_model.model.x"])
def test_inpainting_is_named(tmp_path, text):
    state = {name: torch.zeros(1) for name in (*WHOLE, text)} | {
        f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)
    }
    save_file(state, tmp_path / "inpainting.safetensors")
    with pytest.raises(UserError, match=r"inpainting.*9 channels"):
        recognise(tmp_path / "inpainting.safetensors")


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


def test_a_part_is_read_in_a_precision(tmp_path):
    half = torch.randn(3, 5).half()
    state = {
        "a.x": half,
        "a.count": torch.tensor([3]),
        "a.whole": torch.tensor(2.5),
        "b.x": -half,
        "a.none": torch.zeros(0, 5),
    }
    save_file(state, tmp_path / "x.safetensors")
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    for name in ("x.safetensors", "x.ckpt"):
        read = read_tensors(tmp_path / name, ("a.",), torch.float32)
        assert read.keys() == {"a.x", "a.count", "a.whole", "a.none"}
        assert torch.equal(read["a.x"], half.float()) and read["a.x"].dtype is torch.float32
        assert read["a.count"].dtype is torch.int64 and read["a.whole"].shape == ()
        assert torch.equal(read_tensors(tmp_path / name)["b.x"], -half)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_precisions_of_files(tmp_path, dtype):
    values = torch.tensor([1.0, -2.0, 0.5]).to(dtype)
    save_file({"x": values}, tmp_path / "x.safetensors")
    assert read_tensors(tmp_path / "x.safetensors", dtype=torch.float32)["x"].tolist() == [1.0, -2.0, 0.5]


def test_an_unknown_precision_is_said(tmp_path):
    header = json.dumps({"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"0")
    with pytest.raises(UserError, match="tensor x can't be read"):
        read_tensors(tmp_path / "x.safetensors")


def vae_state(root=""):
    return {root + name.removeprefix(VAE): torch.zeros(shape) for name, shape, _ in support.vae(support.Widths())}


@pytest.mark.parametrize("root", ["", VAE])
@pytest.mark.parametrize("name", ["vae.safetensors", "vae.pt", "vae.ckpt"])
def test_a_vae_of_its_own(tmp_path, name, root):
    state = vae_state(root) | {f"{root}loss.logvar": torch.zeros(1)}
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state}, tmp_path / name)
    assert read_vae(tmp_path / name, torch.float32, "cpu").keys() == vae_state(VAE).keys()


def test_what_is_no_vae_is_said(tmp_path):
    with pytest.raises(UserError, match="not a VAE"):
        read_vae(saved(tmp_path / "x.safetensors", "lora_unet_x.lora_down.weight"), torch.float32, "cpu")
    with pytest.raises(UserError, match="diffusers' layout"):
        read_vae(saved(tmp_path / "y.safetensors", "encoder.down_blocks.0.x"), torch.float32, "cpu")
    save_file({"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}, tmp_path / "flux.safetensors")
    with pytest.raises(UserError, match="another kind of model"):
        read_vae(tmp_path / "flux.safetensors", torch.float32, "cpu")
    with pytest.raises(UserError, match="no such file"):
        read_vae(tmp_path / "none.safetensors", torch.float32, "cpu")
    (tmp_path / "vae.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="Choose a VAE file"):
        read_vae(tmp_path / "vae.bin", torch.float32, "cpu")


class Malicious:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_ckpt_is_read_without_running_anything_in_it(tmp_path):
    torch.save({"state_dict": PARTS}, tmp_path / "good.ckpt")
    assert read_tensors(tmp_path / "good.ckpt").keys() == PARTS.keys()
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
