import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train import settings as settings_module
from lora_train.dataset import buckets, images
from lora_train.dataset.options import CaptionOptions, Frame
from lora_train.dataset.pictures import Concept, Dataset
from lora_train.dataset.source import open_dataset
from lora_train.errors import UserError, UserErrors
from lora_train.settings import TrainSettings

from .pictures import encoded, noise, place

RECORDED = json.loads((Path(__file__).parent / "dataset_config.json").read_text(encoding="utf-8"))


def opened(root: Path | str, **values: Any) -> Dataset:
    return open_dataset(TrainSettings(train_data_dir=str(root), **values))


def of_file(path: Path, text: str, **values: Any) -> Dataset:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return open_dataset(TrainSettings(dataset_config=str(path), **values))


def problems(path: Path, text: str, **values: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        of_file(path, text, **values)
    single = error.value.errors if isinstance(error.value, UserErrors) else [error.value]
    assert all(e.remedy for e in single)
    return [str(e) for e in single]


def counts(dataset: Dataset) -> dict[str, int]:
    return {use.picture.path.relative_to(dataset.root).as_posix(): use.repeats for use in dataset.uses()}


# Folders


def test_the_settings_options_hold_for_every_folder(tmp_path: Path) -> None:
    place(tmp_path / "2_a" / "x.png", caption="x")
    place(tmp_path / "3_b" / "x.png", caption="x")
    values: dict[str, Any] = {"resolution": (768, 640), "enable_bucket": True, "train_batch_size": 3}
    values |= {"flip_aug": True, "random_crop": True, "alpha_mask": True, "shuffle_caption": True, "keep_tokens": 2}
    for concept in opened(tmp_path, **values).concepts:
        assert concept.frame == Frame(768, 640, 3, True)
        assert concept.captions == CaptionOptions(shuffle=True, keep_tokens=2)
        assert (concept.flip, concept.random_crop, concept.alpha_mask, concept.group) == (True, True, True, 0)
    plain = opened(tmp_path)
    assert plain.concepts[0].frame == Frame()
    assert not (plain.concepts[0].flip or plain.concepts[0].alpha_mask)


def test_every_option_of_the_frame_comes_from_the_settings() -> None:
    changed = TrainSettings(
        resolution=(640, 512),
        train_batch_size=2,
        enable_bucket=True,
        min_bucket_reso=320,
        max_bucket_reso=2048,
        bucket_reso_steps=32,
        bucket_no_upscale=True,
    )
    assert Frame.of(changed) == Frame(640, 512, 2, True, 320, 2048, 32, True)
    assert Frame.of(TrainSettings()) == Frame()


def test_regularisation_needs_no_captions_and_is_balanced(tmp_path: Path) -> None:
    for n in range(2):
        place(tmp_path / "train" / "5_sks girl" / f"{n}.png", caption="sks")
    for n in range(3):
        place(tmp_path / "reg" / "1_girl" / f"{n}.png")
    place(tmp_path / "reg" / "1_girl" / "own.png", caption="a girl")
    dataset = opened(tmp_path / "train", reg_data_dir=str(tmp_path / "reg"))
    assert dataset.warnings == ()
    assert [p.caption for p in dataset.concepts[1].pictures] == ["girl", "girl", "girl", "a girl"]
    assert (dataset.images_with_repeats, dataset.reg_with_repeats) == (10, 4)
    assert [use.repeats for use in dataset.uses()] == [5, 5, 3, 3, 2, 2]
    assert len(dataset.samples()) == 20
    assert [use.concept.is_reg for use in dataset.uses()] == [False] * 2 + [True] * 4


def test_reg_data_dir_comes_before_a_projects_own(tmp_path: Path) -> None:
    place(tmp_path / "image" / "1_a" / "x.png", caption="x")
    place(tmp_path / "reg" / "1_own" / "x.png")
    place(tmp_path / "other" / "1_given" / "x.png")
    own = opened(tmp_path)
    assert [c.name for c in own.concepts] == ["a", "own"]
    assert own.warnings == ("reg: its pictures are used for regularisation",)
    assert [c.name for c in opened(tmp_path, reg_data_dir=str(tmp_path / "other")).concepts] == ["a", "given"]
    with pytest.raises(UserError, match="no such folder"):
        opened(tmp_path, reg_data_dir=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        opened(tmp_path, reg_data_dir=str(tmp_path / "empty"))


def test_wildcards_keep_the_lines_of_a_caption(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", caption="one\n\n two \n")
    dataset = opened(tmp_path, enable_wildcard=True)
    assert dataset.samples()[0].caption == "one\ntwo"
    assert dataset.warnings == ()
    assert opened(tmp_path).samples()[0].caption == "one"


def test_pictures_without_a_bucket_are_left_out_by_name(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", noise(128, 200), "x")
    place(tmp_path / "1_a" / "tiny.png", noise(40, 200), "x")
    dataset = opened(tmp_path, enable_bucket=True, bucket_no_upscale=True)
    assert [p.path.name for p in dataset.samples()] == ["x.png"]
    assert "1_a: left out: tiny.png (40 x 200 is too small" in dataset.warnings[0]
    (tmp_path / "1_a" / "x.png").unlink()
    with pytest.raises(UserError, match="too small"):
        opened(tmp_path, enable_bucket=True, bucket_no_upscale=True)
    assert opened(tmp_path, enable_bucket=True).picture_count == 1


def test_masks_are_found_by_name(tmp_path: Path) -> None:
    for folder in ("1_a", "1_b"):
        place(tmp_path / "train" / folder / "x.png", caption="x")
    place(tmp_path / "masks" / "x.png")
    place(tmp_path / "masks" / "1_b" / "x.jpg")
    place(tmp_path / "reg" / "1_c" / "y.png")
    values = {"conditioning_data_dir": str(tmp_path / "masks"), "reg_data_dir": str(tmp_path / "reg")}
    found = [concept.pictures[0].mask for concept in opened(tmp_path / "train", **values).concepts]
    assert found == [tmp_path / "masks" / "x.png", tmp_path / "masks" / "1_b" / "x.jpg", None]
    place(tmp_path / "train" / "1_a" / "y.png", caption="x")
    with pytest.raises(UserError, match=r"no mask for 1 of 2 pictures: y\.png"):
        opened(tmp_path / "train", **values)
    with pytest.raises(UserError, match="no such folder"):
        opened(tmp_path / "train", conditioning_data_dir=str(tmp_path / "none"))


def test_masked_loss_without_masks_means_transparency(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", caption="x")
    assert opened(tmp_path, masked_loss=True).concepts[0].alpha_mask
    place(tmp_path / "masks" / "x.png")
    concept = opened(tmp_path, masked_loss=True, conditioning_data_dir=str(tmp_path / "masks")).concepts[0]
    assert not concept.alpha_mask
    assert concept.masks == tmp_path / "masks"


# Dataset files


def as_json(text: str) -> str:
    try:
        import tomllib
    except ModuleNotFoundError:
        import tomli as tomllib
    return json.dumps(tomllib.loads(text))


def described(concept: Concept) -> dict[str, Any]:
    """A concept in the words of sd-scripts' subset."""
    c = concept.captions
    return {
        "image_dir": concept.folder.name,
        "num_repeats": concept.repeats,
        "class_tokens": concept.name,
        "is_reg": concept.is_reg,
        "flip_aug": concept.flip,
        "random_crop": concept.random_crop,
        "alpha_mask": concept.alpha_mask,
        "shuffle_caption": c.shuffle,
        "caption_separator": c.separator,
        "keep_tokens": c.keep_tokens,
        "keep_tokens_separator": c.keep_tokens_separator,
        "secondary_separator": c.secondary_separator,
        "enable_wildcard": c.wildcard,
        "caption_prefix": c.prefix,
        "caption_suffix": c.suffix,
        "caption_dropout_rate": c.dropout_rate,
        "caption_dropout_every_n_epochs": c.dropout_every_n_epochs,
        "caption_tag_dropout_rate": c.tag_dropout_rate,
        "token_warmup_min": c.token_warmup_min,
        "token_warmup_step": c.token_warmup_step,
    }


@pytest.mark.parametrize("kind", ["toml", "json"])
@pytest.mark.parametrize("name", RECORDED["cases"])
def test_every_subset_inherits_as_in_sd_scripts(tmp_path: Path, name: str, kind: str) -> None:
    case = RECORDED["cases"][name]
    for folder in ("a", "b", "reg"):
        place(tmp_path / folder / "x.png", noise(64, 64))
    run, _ = settings_module.from_dict(RECORDED["arguments"])
    path = tmp_path / f"set.{kind}"
    path.write_text(case["toml"] if kind == "toml" else as_json(case["toml"]), encoding="utf-8")
    run.dataset_config = str(path)
    concepts = iter(open_dataset(run).concepts)
    for number, table in enumerate(case["datasets"]):
        d = table["dataset"]
        for subset in table["subsets"]:
            concept = next(concepts)
            expected = {name: "" if v is None else v for name, v in subset.items() if name != "caption_extension"}
            assert described(concept) == expected
            assert concept.group == number
            bounds = (d["min_bucket_reso"], d["max_bucket_reso"], d["bucket_reso_steps"], d["bucket_no_upscale"])
            assert concept.frame == Frame(*d["resolution"], d["batch_size"], d["enable_bucket"], *bounds)
    assert next(concepts, None) is None


SIMPLE = """
[[datasets]]
  [[datasets.subsets]]
  image_dir = "a"
"""


def test_the_numbers_of_a_folders_name_mean_nothing_in_a_file(tmp_path: Path) -> None:
    place(tmp_path / "5_cat" / "x.png")
    dataset = of_file(tmp_path / "set.toml", SIMPLE.replace('"a"', '"5_cat"'))
    assert dataset.images_with_repeats == 1
    assert dataset.samples()[0].caption == ""
    assert dataset.warnings == ("5_cat: no .txt caption, it stays empty: 1 of 1 pictures: x.png",)


def test_captions_have_the_ending_of_their_subset(tmp_path: Path) -> None:
    place(tmp_path / "a" / "x.png", caption="txt")
    (tmp_path / "a" / "x.cap").write_text("cap")
    for extension, caption in (
        ("", "txt"),
        ('caption_extension = "cap"', "cap"),
        ('caption_extension = ".cap"', "cap"),
    ):
        assert of_file(tmp_path / "set.toml", SIMPLE + extension).samples()[0].caption == caption
    assert of_file(tmp_path / "set.toml", SIMPLE, caption_extension=".cap").samples()[0].caption == "cap"


def test_a_folder_is_looked_for_in_the_working_folder_and_then_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(tmp_path / "config" / "a" / "x.png")
    assert of_file(tmp_path / "config" / "set.toml", SIMPLE).concepts[0].folder == tmp_path / "config" / "a"
    place(tmp_path / "work" / "a" / "x.png")
    monkeypatch.chdir(tmp_path / "work")
    assert of_file(tmp_path / "config" / "set.toml", SIMPLE).concepts[0].folder == tmp_path / "work" / "a"


def test_each_dataset_balances_its_own_regularisation(tmp_path: Path) -> None:
    for folder in ("a", "b", "reg"):
        for n in range(2):
            place(tmp_path / folder / f"{n}.png", caption="x")
    reg = '[[datasets.subsets]]\nimage_dir = "reg"\nis_reg = true\n'
    subsets = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{}"\nnum_repeats = {}\n'
    dataset = of_file(tmp_path / "set.toml", subsets.format("a", 3) + reg + subsets.format("b", 10) + reg)
    repeats = [(use.concept.group, use.concept.folder.name, use.repeats) for use in dataset.uses()]
    assert repeats == [
        *[(0, "a", 3)] * 2,
        *[(0, "reg", 3)] * 2,
        *[(1, "b", 10)] * 2,
        *[(1, "reg", 10)] * 2,
    ]


def test_a_folder_that_is_there_twice_is_used_once(tmp_path: Path) -> None:
    place(tmp_path / "a" / "x.png", caption="x")
    twice = SIMPLE + '[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = 9\n'
    dataset = of_file(tmp_path / "set.toml", twice)
    assert counts(dataset) == {"a/x.png": 1}
    assert "twice" in dataset.warnings[0]
    assert counts(of_file(tmp_path / "set.toml", SIMPLE + SIMPLE)) == {"a/x.png": 1}
    assert of_file(tmp_path / "set.toml", SIMPLE + SIMPLE).images_with_repeats == 2
    off = SIMPLE.replace('"a"', '"a"\n  num_repeats = 0') + SIMPLE
    assert "0 repeats" in of_file(tmp_path / "set.toml", off).warnings[0]


def test_a_masked_subset(tmp_path: Path) -> None:
    place(tmp_path / "a" / "x.png", caption="x")
    place(tmp_path / "m" / "x.png")
    masked = SIMPLE + 'conditioning_data_dir = "m"\n'
    assert of_file(tmp_path / "set.toml", masked).samples()[0].mask == tmp_path / "m" / "x.png"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[general]\nkeep_token = 1\n", "no option keep_token. Did you mean keep_tokens?"),
        ("[genera]\n", "no option genera. Did you mean general?"),
        ("[general]\nimage_dir = 'a'\n", "image_dir belongs to a subset"),
        ("[general]\ncolor_aug = true\n", "color_aug: changed colours"),
        ("[general]\nface_crop_aug_range = [1.0, 2.0]\n", "face_crop_aug_range: crops around faces"),
        ("[general]\nresize_interpolation = 'area'\n", "resize_interpolation"),
        ("[general]\nnetwork_multiplier = 0.5\n", "only 1"),
        ("[general]\nvalidation_split = 0.1\n", "the run as a whole"),
        ("[general]\nkeep_tokens = 'many'\n", "keep_tokens: 'many' is not a whole number"),
        ("[general]\nbatch_size = 0\n", "batch_size: 0 is out of range"),
        ("[general]\nresolution = 100\n", "resolution: not a multiple of 8"),
        ("[general]\nenable_bucket = true\nmin_bucket_reso = 768\n", "min_bucket_reso"),
        ("[general]\nnum_repeats = 2.5\n", "num_repeats 2.5 is not a whole number"),
        ("[general]\nnum_repeats = 100000\n", "out of range"),
        ("[general]\nclass_tokens = 1\n", "class_tokens 1 is not text"),
        ("general = 1\n", "it is no table"),
    ],
)
def test_what_a_dataset_file_may_not_say(tmp_path: Path, text: str, what: str) -> None:
    place(tmp_path / "a" / "x.png", caption="x")
    (problem,) = problems(tmp_path / "set.toml", text + SIMPLE)
    assert what in problem
    assert "set.toml" in problem


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("batch_size = 2", "subset 1: batch_size belongs to a dataset"),
        ("metadata_file = 'meta.json'", "subset 1: metadata_file: fine-tuning metadata"),
        ("is_reg = 1", "is_reg 1 is not true or false"),
        ("keep_tokens_seperator = '|||'", "Did you mean keep_tokens_separator?"),
    ],
)
def test_what_a_subset_may_not_say(tmp_path: Path, text: str, what: str) -> None:
    place(tmp_path / "a" / "x.png", caption="x")
    (problem,) = problems(tmp_path / "set.toml", SIMPLE + text)
    assert what in problem


def test_files_that_are_no_dataset_files(tmp_path: Path) -> None:
    for name, text, what in (
        ("set.toml", "", "no [[datasets]]"),
        ("set.toml", "[[datasets]]\n", "no subsets"),
        ("set.toml", "[datasets]\n", "no list of tables"),
        ("set.toml", "a = = 1", "can't be understood"),
        ("set.json", "[]", "no table"),
        ("set.yaml", "", "neither .toml nor .json"),
        ("set.toml", "[[datasets]]\n[[datasets.subsets]]\n", "no folder is given"),
        ("set.toml", SIMPLE, "no such folder"),
    ):
        (problem,) = problems(tmp_path / name, text)
        assert what in problem
    with pytest.raises(UserError, match="no such file"):
        open_dataset(TrainSettings(dataset_config=str(tmp_path / "none.toml")))


def test_all_problems_of_a_file_come_together(tmp_path: Path) -> None:
    text = "[general]\nkeep_token = 1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'none'\ncolor_aug = true\n"
    assert len(problems(tmp_path / "set.toml", text + "[[datasets.subsets]]\nimage_dir = 'none'\n")) == 3


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    place(tmp_path / "a" / "x.png", caption="x")
    (warning,) = of_file(tmp_path / "set.toml", SIMPLE + "cache_info = true\n").warnings
    assert warning == "set.toml, [[datasets]] 1, subset 1: cache_info has no effect here"


# Many pictures


def many(folder: Path, count: int) -> None:
    """`count` pictures of two sizes and formats with captions; damage in their midst shows who decodes them."""
    folder.mkdir(parents=True)
    broken = []
    for kind, size in (("JPEG", (64, 48)), ("PNG", (48, 64))):
        data = bytearray(encoded(noise(*size), kind))
        half = len(data) // 2
        data[half : half + 200] = b"\xff\x13" * 100
        broken.append((kind.lower(), bytes(data)))
    for n in range(count):
        ending, data = broken[n % 2]
        (folder / f"{n:05d}.{ending}").write_bytes(data)
        (folder / f"{n:05d}.txt").write_text(f"tag {n % 7}")


def test_scanning_decodes_nothing(tmp_path: Path) -> None:
    many(tmp_path / "3_a", 40)
    dataset = opened(tmp_path, enable_bucket=True, train_batch_size=4)
    assert dataset.warnings == ()
    assert (dataset.picture_count, dataset.images_with_repeats) == (40, 120)
    assert [(b.size, b.batches) for b in buckets.fill(dataset)] == [((448, 576), 15), ((576, 448), 15)]
    for picture in dataset.samples()[:6:3]:
        with pytest.raises(UserError, match=picture.path.name):
            images.read(picture.path)


@pytest.mark.slow
def test_ten_thousand_pictures_are_scanned_and_laid_out_in_ten_seconds(tmp_path: Path) -> None:
    import tracemalloc

    many(tmp_path / "1_a", 10_000)
    began = time.monotonic()
    dataset = opened(tmp_path, enable_bucket=True, train_batch_size=4)
    batches = sum(bucket.batches for bucket in buckets.fill(dataset))
    assert time.monotonic() - began < 10
    assert (dataset.picture_count, batches) == (10_000, 2_500)
    tracemalloc.start()
    opened(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000 * 4096  # what is kept of a picture, not the picture


def test_transparent_pictures_are_scanned_too(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", Image.new("RGBA", (32, 24)), "x")
    assert opened(tmp_path, alpha_mask=True).concepts[0].alpha_mask
