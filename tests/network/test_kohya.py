from __future__ import annotations

import contextlib
import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_train.errors import UserError
from lora_train.header import header_bytes, read_header
from lora_train.network import kohya

NAME = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def state(width: int = 6, rank: int = 2, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        f"{NAME}.lora_up.weight": torch.randn(width, rank, generator=g),
        f"{NAME}.lora_down.weight": torch.randn(rank, width, generator=g),
        f"{NAME}.alpha": torch.tensor(rank),
    }


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Header with its length, and the tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    return data[:start], data[start:]


texts = st.text(max_size=20)
metadatas = st.dictionaries(texts.filter(lambda key: not key.startswith("sshs_")), texts, max_size=4)


@settings(max_examples=30, deadline=None)
@given(metadatas, st.sampled_from(list(kohya.PRECISIONS.values())), st.integers(1, 9), st.integers(0, 99))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str], dtype: torch.dtype, width: int, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.safetensors"
    tensors = state(width, seed=seed)
    kohya.write_lora(path, tensors, metadata, dtype)
    found, texts = kohya.read_lora(path)
    assert {key: value for key, value in texts.items() if not key.startswith("sshs_")} == metadata
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor.to(dtype))


@pytest.mark.parametrize("width", [6, 80_000])
@pytest.mark.parametrize(
    "metadata", [{}, {"modelspec.title": "x"}, {"ss_tags": 'é"\\\n\x01画风', "modelspec.title": "x"}]
)
def test_hashes_are_kohyas(tmp_path: Path, width: int, metadata: dict[str, str]) -> None:
    """As sd-scripts calculates them: over the file that safetensors writes with the ss_ metadata only."""
    path, tensors = tmp_path / "x.safetensors", state(width)
    kohya.write_lora(path, tensors, metadata, torch.float32)
    plain = {key: value.float() for key, value in tensors.items()}
    data = safetensors.torch.save(plain, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    texts = kohya.read_lora(path)[1]
    assert texts["sshs_model_hash"] == sha256(parts(data)[1]).hexdigest() == kohya.model_hash(path)
    assert texts["sshs_legacy_hash"] == sha256(data[0x100000:0x110000]).hexdigest()[:8] == kohya.legacy_hash(path)
    assert (width == 6) == (len(data) < 0x100000)


def test_bytes_are_those_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    kohya.write_lora(path, state(), {}, torch.float16)
    entries = read_header(path, "LoRA").entries
    assert parts(safetensors.torch.save({key: value.half() for key, value in state().items()}, {"a": "b"}))[0] == (
        header_bytes(entries, {"a": "b"})
    )


def test_same_input_same_bytes(tmp_path: Path) -> None:
    tensors = state()
    kohya.write_lora(tmp_path / "1.safetensors", tensors, {"a": "1", "b": "2"}, torch.float16)
    kohya.write_lora(tmp_path / "2.safetensors", dict(reversed(tensors.items())), {"b": "2", "a": "1"}, torch.float16)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_old_hashes_are_replaced_and_views_written_whole(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", state()
    tensors[f"{NAME}.lora_up.weight"] = torch.arange(12.0).reshape(2, 6).T.requires_grad_()
    kohya.write_lora(path, tensors, {"sshs_model_hash": "old"}, torch.float32)
    found, metadata = kohya.read_lora(path)
    assert torch.equal(found[f"{NAME}.lora_up.weight"], torch.arange(12.0).reshape(2, 6).T)
    assert metadata["sshs_model_hash"] == kohya.model_hash(path)


def test_nothing_is_written_unless_all_is_finite(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", state()
    kohya.write_lora(path, tensors, {}, torch.float16)
    before = path.read_bytes()
    up = f"{NAME}.lora_up.weight"
    with pytest.raises(UserError, match=rf"x\.safetensors: NaN or infinite values in {up}"):
        kohya.write_lora(path, {**tensors, up: tensors[up] * math.inf}, {}, torch.float16)
    with pytest.raises(UserError, match=rf"values too large for torch\.float16 in {up}\. Save as bf16 or float"):
        kohya.write_lora(path, {**tensors, up: tensors[up] * 1e6}, {}, torch.float16)
    with pytest.raises(UserError, match="there is nothing to save"):
        kohya.write_lora(path, {}, {}, torch.float16)
    with pytest.raises(ValueError, match=r"not torch\.float64"):
        kohya.write_lora(path, tensors, {}, torch.float64)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_reads_back_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = kohya._write_tensors

    def spoilt(handle: Any, *rest: Any) -> str:
        digest = write(handle, *rest)
        handle.seek(-1, 2)
        handle.write(b"\xff")
        return digest

    monkeypatch.setattr(kohya, "_write_tensors", spoilt)
    with pytest.raises(UserError, match=r"x\.safetensors: what was written can't be read back"):
        kohya.write_lora(tmp_path / "x.safetensors", state(), {}, torch.float16)
    assert not list(tmp_path.iterdir())


def test_nan_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    broken = {f"lora_te_{n}.alpha": torch.tensor(math.nan) for n in range(5)}
    safetensors.torch.save_file({**state(), **broken}, path)
    message = r"NaN or infinite values in lora_te_0\.alpha, lora_te_1\.alpha, lora_te_2\.alpha and 2 more"
    with pytest.raises(UserError, match=message):
        kohya.read_lora(path)
    with kohya.open_lora(path) as lora, pytest.raises(UserError, match=r"values in lora_te_3\.alpha"):
        lora.tensor("lora_te_3.alpha")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"abc", "this is not a safetensors file"),
        (b"<!DOCTYPE html><html></html>", "this is an HTML page, not a LoRA"),
        (b"\n <html>", "this is an HTML page, not a LoRA"),
        (b"PK\x03\x04" + bytes(100), "this is a pickled file"),
        (b"\x80\x02" + bytes(100), "this is a pickled file"),
        (bytes(100), "this is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "this is not a safetensors file"),
        ((50).to_bytes(8, "little") + b"{", "the file is cut off in its header"),
        ((9).to_bytes(8, "little") + b"not json!", "its header is damaged"),
        ((2).to_bytes(8, "little") + b"[]", "its header is damaged"),
        ((2).to_bytes(8, "little") + b"{}", "this file holds no tensors"),
        ((13).to_bytes(8, "little") + b'{"a":{"b":1}}', "its header is damaged"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"x\.safetensors: .*{message}"):
        kohya.read_lora(path)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.diffusion_model.out.2.weight", "this is a checkpoint, not a LoRA"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "this is a checkpoint, not a LoRA"),
        ("emb_params", "this is a textual inversion embedding, not a LoRA"),
        ("decoder.conv_in.weight", r"this is not a LoRA \(its first tensor is 'decoder.conv_in.weight'\)"),
    ],
)
def test_safetensors_that_are_no_lora(tmp_path: Path, key: str, message: str) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({key: torch.ones(2)}, path)
    with pytest.raises(UserError, match=message):
        kohya.read_lora(path)


@pytest.mark.parametrize(
    "key", ["lora_unet_x.hada_w1_a", "unet.x.lora_A.weight", "lycoris_x.lokr_w1", "x.lora.up.weight"]
)
def test_every_kind_of_lora_is_read(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({key: torch.ones(2)}, path)
    assert kohya.read_lora(path)[0].keys() == {key}


@pytest.mark.parametrize("first", [b"<", b" <", b"\x80", b"PK"])
def test_header_lengths_that_look_like_another_format(tmp_path: Path, first: bytes) -> None:
    """A header of 60 bytes begins with `<`, one of 128 like a pickle."""
    length = int.from_bytes(first, "little")
    header = b'{"lora_te":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + bytes(2))
    assert len(kohya.read_lora(path)[0]) == 1


def test_missing_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"x\.safetensors: there is no such file"):
        kohya.read_lora(path)
    with pytest.raises(UserError, match="there is no such file"):
        kohya.read_lora(tmp_path)
    kohya.write_lora(path, state(), {}, torch.float16)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match="the file is cut off: 5 bytes are missing"):
        kohya.read_lora(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bytes_bring_anything_but_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    content = bytearray(safetensors.torch.save(state(), {"a": "b"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        kohya.read_lora(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_magnitudes_of_a_dora_keep_their_precision(tmp_path, dtype):
    g = torch.Generator().manual_seed(1)
    state = {
        "lora_unet_a.alpha": torch.tensor(1.0),
        "lora_unet_a.dora_scale": 10 * torch.rand(1, 8, generator=g),
        "lora_unet_a.lora_down.weight": torch.randn(3, 8, generator=g),
        "lora_unet_a.lora_up.weight": torch.randn(5, 3, generator=g),
    }
    path = tmp_path / "dora.safetensors"
    kohya.write_lora(path, state, {}, dtype)
    read, _ = kohya.read_lora(path)
    assert torch.equal(read["lora_unet_a.dora_scale"], state["lora_unet_a.dora_scale"])
    assert read["lora_unet_a.lora_up.weight"].dtype is dtype
