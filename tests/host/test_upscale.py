"""A WebUI's upscalers, against stand-ins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from lora_train.errors import UserError
from lora_train.host.webui import WebUIHost

PICTURE = Image.new("RGB", (52, 36), "red")


def test_lanczos_first_and_no_none(webui: SimpleNamespace) -> None:
    assert WebUIHost().upscalers() == ["Lanczos", "4x"]


@pytest.mark.parametrize("size", [(53, 37), (104, 72), (123, 85), (511, 355), (60, 300)])
def test_the_upscaler_covers_the_size_before_anything_is_resized(webui: SimpleNamespace, size: tuple[int, int]) -> None:
    """The WebUI rounds down to multiples of eight: asked for exactly the size it would fall short of it."""
    asked = []
    plain = webui.scaler.upscale

    def upscale(*given: object) -> Image.Image:
        made = plain(*given)
        asked.append(made.size)
        return made

    webui.scaler.upscale = upscale
    assert WebUIHost().upscale(PICTURE, "4x", *size).size == size
    [made] = asked
    assert made[0] >= size[0]
    assert made[1] >= size[1]


def test_a_large_picture_needs_no_upscaler(webui: SimpleNamespace) -> None:
    assert WebUIHost().upscale(PICTURE, "4x", 52, 20).size == (52, 20)
    assert webui.scaler.factors == []


def test_failures_have_the_upscalers_name(webui: SimpleNamespace) -> None:
    host = WebUIHost()
    with pytest.raises(UserError, match=r"no upscaler 'Foo'\. Choose from Lanczos, 4x"):
        host.upscale(PICTURE, "Foo", 100, 100)
    webui.scaler.fails = True  # reports, and returns the picture as it was
    with pytest.raises(UserError, match=r"4x: the upscaler failed: no such file\. .*4x\.pth"):
        host.upscale(PICTURE, "4x", 100, 100)
    webui.scaler.raises = True
    with pytest.raises(UserError, match="4x: the upscaler failed: CUDA out of memory"):
        host.upscale(PICTURE, "4x", 100, 100)
    assert not webui.call_queue.queue_lock.held


def test_a_model_that_cannot_be_downloaded_has_a_place(webui: SimpleNamespace) -> None:
    [entry] = [one for one in webui.shared.sd_upscalers if one.name == "4x"]
    entry.data_path, webui.scaler.model_path = "https://example.org/4x.pth", "models/ESRGAN"
    webui.scaler.raises = True
    with pytest.raises(UserError, match=r"or put its model into models/ESRGAN: https://example\.org/4x\.pth"):
        WebUIHost().upscale(PICTURE, "4x", 100, 100)


def test_interrupting_it_in_the_webui(webui: SimpleNamespace) -> None:
    """An interrupted upscaler would leave a blurred picture behind without a word."""
    webui.shared.state.interrupt()  # some time ago: counts for nothing
    WebUIHost().upscale(PICTURE, "4x", 100, 100)
    webui.scaler.upscale = lambda picture, *_: (webui.shared.state.interrupt(), picture)[1]
    with pytest.raises(UserError, match="4x: it was interrupted"):
        WebUIHost().upscale(PICTURE, "4x", 100, 100)
