"""Epochs as batches: their arithmetic, their order, and what becomes of it over several processes."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset import buckets
from lora_train.dataset.options import CaptionOptions, Frame
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.plan.steps import plan
from lora_train.settings import TrainSettings
from lora_train.train.data import TrainingData
from lora_train.train.latents import Rows

STEPS = json.loads((Path(__file__).parents[1] / "data" / "tables" / "steps.json").read_text(encoding="utf-8"))["cases"]


class Marked:
    """Latents that tell which picture they are, and remember what was asked for."""

    needs_vae = False

    def __init__(self, dataset):
        self.dataset = dataset
        self.asked = []
        self.following = []

    def rows(self, shots, following=()):
        self.asked.append(list(shots))
        self.following.append(list(following))
        assert len({shot.view.fit.bucket for shot in shots}) == 1
        values = torch.tensor([float(shot.view.path.stem) for shot in shots])
        return Rows(values[:, None, None, None].expand(-1, 4, 1, 1), None, None, torch.ones(len(shots)))


def settings_of(**changes):
    return TrainSettings(**{"resolution": (64, 64), "train_batch_size": 2, "max_train_epochs": 3, **changes})


def dataset_of(settings, *concepts):
    """Each concept: (sizes of its pictures, other fields). Pictures are numbered through."""
    made, number = [], 0
    for sizes, fields in concepts:
        pictures = []
        for width, height in sizes:
            pictures.append(Picture(Path(f"{number}.png"), f"a, b, c, d, number {number}", width, height))
            number += 1
        defaults = {"frame": Frame.of(settings), "captions": CaptionOptions.of(settings), "repeats": 1}
        made.append(Concept(Path("x"), "x", pictures=tuple(pictures), **{**defaults, **fields}))
    return Dataset(Path("x"), tuple(made), ())


def data_of(settings, *concepts, **options):
    dataset = dataset_of(settings, *concepts)
    return TrainingData(dataset, Marked(dataset), settings, **options)


def told(windows):
    """What a training sees of windows, to be compared."""
    return [
        [(b.index, b.first, b.of, b.latents[:, 0, 0, 0].tolist(), b.captions, b.weights.tolist()) for b in window]
        for window in windows
    ]


SIZES = st.lists(st.sampled_from([(64, 64), (256, 64), (64, 250), (300, 256)]), min_size=1, max_size=5)
BUCKETS = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 32}


@st.composite
def runs(draw):
    settings = settings_of(
        **BUCKETS,
        train_batch_size=draw(st.integers(1, 4)),
        gradient_accumulation_steps=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 9)),
        shuffle_caption=draw(st.booleans()),
        caption_dropout_rate=draw(st.sampled_from([0.0, 0.5])),
        token_warmup_step=draw(st.sampled_from([0, 0.5])),
    )
    concept = st.tuples(SIZES, st.fixed_dictionaries({"repeats": st.integers(1, 3), "flip": st.booleans()}))
    concepts = draw(st.lists(concept, min_size=1, max_size=3))
    return settings, concepts


@given(runs())
def test_every_sample_once_an_epoch_in_whole_batches_of_one_size(run):
    settings, concepts = run
    data = data_of(settings, *concepts)
    batches = [batch for window in data.epoch(2) for batch in window]
    seen = Counter(float(v) for batch in batches for v in batch.latents[:, 0, 0, 0])
    wanted, number = {}, 0
    for sizes, fields in concepts:
        for _ in sizes:
            wanted[float(number)] = fields["repeats"]
            number += 1
    assert seen == wanted
    assert (
        len(batches) == data.batches_per_epoch == sum(bucket.batches for bucket in buckets.fill(data.latents.dataset))
    )
    assert sum(len(b.weights) < settings.train_batch_size for b in batches) <= len(buckets.fill(data.latents.dataset))
    assert [b.index for b in batches] == list(range(len(batches), 2 * len(batches)))


@given(runs())
def test_the_plan_before_the_run_says_the_same(run):
    settings, concepts = run
    data = data_of(settings, *concepts)
    planned = plan(settings, data.latents.dataset)
    assert (data.steps_per_epoch, data.batches_per_epoch) == (planned.steps_per_epoch, planned.batches_per_epoch)


@given(runs(), st.integers(1, 3))
def test_steps_are_windows_of_batches_and_a_resumed_epoch_is_the_tail_of_the_whole(run, number):
    settings, concepts = run
    data = data_of(settings, *concepts)
    whole = told(data.epoch(number))
    assert len(whole) == data.steps_per_epoch
    assert all(len(window) == settings.gradient_accumulation_steps for window in whole[:-1])
    for first_step in range(data.steps_per_epoch + 1):
        data.latents.asked.clear()
        assert told(data.epoch(number, first_step)) == whole[first_step:]
        assert len(data.latents.asked) == sum(len(window) for window in whole[first_step:])


@given(runs(), st.integers(2, 5))
def test_the_rows_of_all_processes_are_the_whole_batch(run, processes):
    settings, concepts = run
    every = [told(data_of(settings, *concepts, processes=processes, rank=r).epoch(1)) for r in range(processes)]
    at_once = settings_of(**{**vars(settings), "train_batch_size": settings.train_batch_size * processes})
    alone = told(data_of(at_once, *concepts).epoch(1))
    for windows in zip(alone, *every, strict=True):
        for (index, _, of, values, texts, weights), *ranks in zip(*windows, strict=True):
            rows = []
            for i, first, whole, its_values, its_texts, its_weights in ranks:
                assert (i, whole) == (index, of)
                assert first + len(its_values) <= of and 1 <= len(its_values) <= settings.train_batch_size
                if its_weights == [0.0]:
                    assert its_values == values[first : first + 1]
                else:
                    assert first == len(rows)
                    rows += zip(its_values, its_texts, its_weights, strict=True)
            assert rows == list(zip(values, texts, weights, strict=True))


@pytest.mark.parametrize("case", STEPS)
def test_batches_an_epoch_are_those_of_sd_scripts(case):
    settings = TrainSettings(
        train_batch_size=case["batch_size"],
        enable_bucket=case["enable_bucket"],
        bucket_no_upscale=case["bucket_no_upscale"],
        gradient_accumulation_steps=3,
    )
    data = data_of(settings, *([[(w, h)], {"repeats": repeats}] for w, h, repeats in case["pictures"]))
    assert data.batches_per_epoch == case["batches"]
    assert data.steps_per_epoch == -(-case["batches"] // 3)
    assert sum(len(b.weights) for w in data.epoch(1) for b in w) == sum(count for _, count in case["buckets"])


def test_each_epoch_and_seed_has_its_own_order():
    def order(seed, number):
        data = data_of(settings_of(seed=seed), [[(64, 64)] * 12, {}])
        return [v for window in told(data.epoch(number)) for batch in window for v in batch[3]]

    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, number)) for seed in (1, 2) for number in (1, 2)}) == 4


def test_batches_of_several_sizes_are_mixed():
    data = data_of(settings_of(**BUCKETS), [[(64, 64)] * 10 + [(256, 64)] * 10, {}])
    sizes = [shots[0].view.fit.bucket for _ in data.epoch(1) for shots in data.latents.asked[-1:]]
    assert sizes not in (sorted(sizes), sorted(sizes, reverse=True))


def test_captions_change_from_use_to_use_but_not_from_run_to_run():
    def captions(**changes):
        data = data_of(settings_of(max_train_epochs=4, **changes), [[(64, 64)] * 3, {"repeats": 4}])
        return [text for window in told(data.epoch(1)) for batch in window for text in batch[4]]

    assert set(captions()) == {f"a, b, c, d, number {n}" for n in range(3)}
    assert captions(shuffle_caption=True) == captions(shuffle_caption=True)
    assert len(set(captions(shuffle_caption=True))) > 6
    assert "" in captions(caption_dropout_rate=0.5) and "" not in captions()


def test_the_token_warm_up_counts_optimizer_steps_of_the_whole_run():
    lengths = {"max_train_epochs": 2, "token_warmup_step": 4}  # 2 epochs of 2 steps
    settings = settings_of(train_batch_size=1, gradient_accumulation_steps=2, **lengths)
    data = data_of(settings, [[(64, 64)] * 4, {}])
    tags = [[len(b.captions[0].split(",")) for b in window] for n in (1, 2) for window in data.epoch(n)]
    assert tags == [[1, 1], [2, 2], [3, 3], [4, 4]]


def test_half_of_the_uses_are_mirrored_where_the_concept_says_so():
    data = data_of(settings_of(), [[(64, 64)], {"repeats": 400, "flip": True}], [[(64, 64)], {"repeats": 100}])
    list(data.epoch(1))
    shots = [shot for group in data.latents.asked for shot in group]
    mirrored = Counter(shot.view.path.stem for shot in shots if shot.flipped)
    assert 150 < mirrored["0"] < 250 and mirrored["1"] == 0


def test_regularisation_weighs_as_told_and_is_balanced():
    settings = settings_of(prior_loss_weight=0.25)
    data = data_of(settings, [[(64, 64)] * 2, {"repeats": 3}], [[(64, 64)] * 10, {"is_reg": True}])
    seen = Counter()
    for window in data.epoch(1):
        for batch in window:
            for value, weight in zip(batch.latents[:, 0, 0, 0].tolist(), batch.weights.tolist(), strict=True):
                assert weight == (1.0 if value < 2 else 0.25)
                seen[value] += 1
    assert seen == {0: 3, 1: 3, **dict.fromkeys(range(2, 8), 1)}


def test_a_process_without_a_picture_repeats_one_that_weighs_nothing():
    data = data_of(settings_of(), [[(64, 64)], {}], processes=3, rank=0)
    assert told(data.epoch(1))[0][0][5] == [0.0]
    data = data_of(settings_of(), [[(64, 64)], {}], processes=3, rank=2)
    assert told(data.epoch(1))[0][0] == (0, 0, 1, [0.0], ["a, b, c, d, number 0"], [1.0])


def test_the_next_batch_is_announced():
    data = data_of(settings_of(gradient_accumulation_steps=2), [[(64, 64)] * 7, {}])
    list(data.epoch(1))
    assert data.latents.following == [*data.latents.asked[1:], []]


def test_texts_states_come_along():
    class Text:
        def rows(self, texts):
            return list(texts)

    data = data_of(settings_of(), [[(64, 64)] * 3, {}], text=Text())
    for window in data.epoch(1):
        for batch in window:
            assert batch.text == batch.captions
