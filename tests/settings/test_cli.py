"""Every setting is an option of a command; preset, file and options win in this order."""

import argparse
from dataclasses import MISSING, fields

import pytest

from lora_train.errors import UserError
from lora_train.settings import TrainSettings
from lora_train.settings.cli import add_arguments, given


def read(*words, config=None, more=None):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return given(parser.parse_args(words), config, more)[0]


@pytest.mark.parametrize("field", fields(TrainSettings), ids=lambda field: field.name)
def test_every_setting_is_an_option(field):
    """Given its default as text, it reads as the default."""
    default = field.default if field.default is not MISSING else field.default_factory()
    if isinstance(default, tuple):
        words = [",".join(map(str, default))]
    else:
        words = (
            [str(one) for one in default] if isinstance(default, list) else ["" if default is None else str(default)]
        )
    assert getattr(read(f"--{field.name}", *words), field.name) == default


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("network_dim = 5\nnetwork_alpha = 3\n", encoding="utf-8")
    preset = read("--preset", "person-regularised")
    assert preset.network_dim == 128 and preset.unet_lr == 1e-4
    both = read("--preset", "person-regularised", "--network_alpha", "2", config=config, more={"output_name": "x"})
    assert (both.network_dim, both.network_alpha, both.unet_lr, both.output_name) == (5, 2.0, 1e-4, "x")


def test_switches_and_lists():
    assert read("--flip_aug").flip_aug and not read("--flip_aug", "false").flip_aug
    assert read("--optimizer_args", "a=1", "b=2").optimizer_args == ["a=1", "b=2"]
    assert read("--resolution", "512,768").resolution == (512, 768)


def test_what_is_wrong_is_told_by_name():
    with pytest.raises(UserError, match="network_dim"):
        read("--network_dim", "many")
