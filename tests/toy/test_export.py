"""The embedded checkpoint's file: read back by the product, it gives the networks that were written."""

import pytest

torch = pytest.importorskip("torch")

from lora_train.model.load import load_model  # noqa: E402
from tools.toy import models  # noqa: E402
from tools.toy.export import normalise_latents, write_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return models.make_vae().eval(), models.make_text_encoder().eval(), models.make_unet().eval()


def test_the_file_holds_the_networks(networks, tmp_path):
    write_checkpoint(tmp_path / "mini.safetensors", *networks)
    model = load_model(tmp_path / "mini.safetensors")
    for written, read in zip(networks, (model.vae, model.text_encoder, model.unet), strict=True):
        expected, found = written.state_dict(), read.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key].half().float()) for key in found)


@torch.no_grad()
def test_normalised_latents_have_unit_deviation_and_decode_alike(networks):
    vae = networks[0]
    pictures = torch.randn(2, 3, 64, 64)
    latents = vae.encode(pictures).latent_dist.mean
    before = vae.decode(latents).sample
    normalise_latents(vae, latents)
    after = vae.encode(pictures).latent_dist.mean
    scaled = after * models.LATENT_SCALE
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(vae.decode(after).sample, before, atol=1e-3)
