"""The settings object: bounds, kohya's spellings, all errors at once."""

import json
import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train import settings
from lora_train.errors import UserError, UserErrors
from lora_train.settings import TrainSettings
from tools import settings_page

NUMERIC = [row for row in settings.schema() if row["low"] is not None]
BAD_NUMBERS = ["abc", math.nan, math.inf, -1e300, 1e300, True, ["x"], {}, "1e999"]


def test_a_kohya_file_is_read(tmp_path):
    path = tmp_path / "kohya.toml"
    path.write_text(
        '[network]\nnetwork_dim = 8\nnetwork_args = ["conv_dim=4", "conv_alpha=2"]\n'
        '[train]\nunet_lr = 1e-4\ntext_encoder_lr = [5e-5]\nresolution = "512,512"\n'
        'sdpa = true\nsave_precision = "fp32"\n',
        encoding="utf-8",
    )
    read, warnings = settings.load(path)
    assert (read.network_dim, read.conv_dim, read.conv_alpha) == (8, 4, 2.0)
    assert (read.unet_rate, read.text_encoder_rate) == (1e-4, 5e-5)
    assert (read.resolution, read.save_precision) == ((512, 512), "float")
    assert warnings == ["sdpa has no effect here: attention is PyTorch's own unless xformers is on"]


def test_an_unknown_option_matters_only_when_it_is_on():
    assert settings.from_dict({"color_aug": False})[1] == ["color_aug has no effect here"]
    with pytest.raises(UserError, match=r"^color_aug"):
        settings.from_dict({"color_aug": True})
    with pytest.raises(UserError, match="Did you mean network_dim"):
        settings.from_dict({"networkdim": 0})


def test_json_round_trip(tmp_path):
    original = TrainSettings(
        output_name="日本 1", unet_lr=3e-4, optimizer_args=["weight_decay=0.1"], save_every_n_epochs=None
    )
    path = tmp_path / "config.json"
    path.write_text(original.to_json(), encoding="utf-8")
    assert settings.load(path) == (original, [])


@pytest.mark.parametrize("row", NUMERIC, ids=lambda row: row["name"])
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=str)
def test_bad_numbers_name_field_and_range(row, value):
    with pytest.raises(UserError, match=f"^{row['name']}: .*from"):
        settings.from_dict({row["name"]: value})


@pytest.mark.parametrize("row", [row for row in settings.schema() if row["choices"]], ids=lambda row: row["name"])
def test_unknown_choices_are_refused_with_the_choices(row):
    with pytest.raises(UserError, match=str(row["choices"][0])):
        settings.from_dict({row["name"]: 12345 if isinstance(row["choices"][0], int) else "nonsense"})


def test_all_errors_at_once_and_a_near_name():
    with pytest.raises(UserErrors) as caught:
        settings.from_dict({"network_dim": 0, "unet_lr": "x", "networkdim": 4})
    assert len(caught.value.errors) == 3
    assert "Did you mean network_dim" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"network_train_unet_only": True, "network_train_text_encoder_only": True}, "network_train_unet_only"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 10}, "lr_scheduler"),
        ({"resolution": 500}, "resolution"),
        ({"resolution": "512,770"}, "resolution"),
        ({"enable_bucket": True, "min_bucket_reso": 640}, "min_bucket_reso"),
        ({"enable_bucket": True, "resolution": 1536}, "max_bucket_reso"),
        ({"min_timestep": 500, "max_timestep": 500}, "min_timestep"),
        ({"adaptive_noise_scale": 0.1}, "adaptive_noise_scale"),
        ({"lr_scheduler_type": "a.B", "lr_warmup_steps": 5, "lr_scheduler": "linear"}, "lr_warmup_steps"),
        ({"scale_v_pred_loss_like_noise_pred": True}, "scale_v_pred"),
        ({"v_parameterization": True, "v_pred_like_loss": 0.5}, "v_pred_like_loss"),
        ({"full_bf16": True}, "full_bf16"),
        ({"full_fp16": True, "mixed_precision": "bf16"}, "full_fp16"),
        ({"fp8_base": True}, "fp8_base"),
        ({"dim_from_weights": True}, "dim_from_weights"),
        ({"base_weights_multiplier": [1.0]}, "base_weights_multiplier"),
        ({"algo": "loha", "block_dims": "1"}, "block_dims"),
        ({"algo": "lokr", "dora_wd": True}, "dora_wd"),
        ({"validation_split": 0.1, "validation_data_dir": "x"}, "validation_split"),
        ({"early_stop_epochs": 3}, "early_stop_epochs"),
        ({"dataset_config": "a", "train_data_dir": "b"}, "dataset_config"),
        ({"lr_scheduler": "adafactor"}, "lr_scheduler"),
        ({"lr_scheduler_args": ["a=1"]}, "lr_scheduler_type"),
        ({"random_crop": True, "cache_latents_to_disk": True}, "random_crop"),
    ],
)
def test_contradictions(values, field):
    with pytest.raises(UserError, match=f"^{field}"):
        settings.from_dict(values)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"resolution": "512,768"}, {"resolution": (512, 768)}),
        ({"resolution": [640]}, {"resolution": (640, 640)}),
        ({"text_encoder_lr": [1e-5, 2e-5]}, {"text_encoder_lr": 1e-5, "text_encoder2_lr": 2e-5}),
        ({"optimizer_type": "adamw8bit"}, {"optimizer_type": "AdamW8bit"}),
        ({"optimizer_type": "DAdaptation"}, {"optimizer_type": "DAdaptAdam"}),
        ({"optimizer_type": "my.own.Optimizer"}, {"optimizer_type": "my.own.Optimizer"}),
        ({"use_8bit_adam": True}, {"optimizer_type": "AdamW8bit"}),
        ({"fp8_base_unet": True, "mixed_precision": "bf16"}, {"fp8_base": True}),
        ({"network_module": "lycoris.kohya", "network_args": ["algo=LoCon", "dropout=0.1"]}, {"network_dropout": 0.1}),
        ({"network_args": ["loraplus_lr_ratio=16", "block_dims=1,2"]}, {"loraplus_lr_ratio": 16, "block_dims": "1,2"}),
        ({"multires_noise_iterations": None, "caption_prefix": None}, {"multires_noise_iterations": 0}),
        ({"base_weights": ["a", "b"], "base_weights_multiplier": "0.5,1"}, {"base_weights_multiplier": [0.5, 1.0]}),
    ],
)
def test_the_forms_in_which_sd_scripts_spells_a_value(given, read):
    settings_read, _ = settings.from_dict(given)
    assert {name: getattr(settings_read, name) for name in read} == read


@pytest.mark.parametrize("text", ["network_dim = ", "[[]]", "\x00", "[1, 2"])
def test_garbled_files_are_named(tmp_path, text):
    for name in ("c.toml", "c.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=name):
            settings.load(tmp_path / name)


def test_every_setting_has_help_and_a_default_inside_its_bounds():
    defaults = asdict(TrainSettings())
    for row, field in zip(settings.schema(), fields(TrainSettings), strict=True):
        assert row["name"] == field.name and row["help"]
    assert settings.from_dict(defaults)[0] == TrainSettings()


@given(st.integers(1, 1024), st.floats(1e-3, 1024), st.floats(0, 10), st.one_of(st.none(), st.integers(1, 12)))
def test_values_survive_json(dim, alpha, rate, skip):
    values = {"network_dim": dim, "network_alpha": alpha, "unet_lr": rate, "clip_skip": skip}
    read, _ = settings.from_dict(json.loads(json.dumps(values)))
    assert (read.network_dim, read.network_alpha, read.unet_lr, read.clip_skip) == (dim, alpha, rate, skip)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (0.1, 100), (20, 20), (1, 1)])
def test_warmup_as_steps_or_share(warmup, steps):
    assert TrainSettings(lr_warmup_steps=warmup).warmup_steps(1000) == steps


def test_the_page_of_settings_is_up_to_date():
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()
