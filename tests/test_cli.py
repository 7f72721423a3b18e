"""Every verb is there, says what it takes, and knows what to run."""

import pytest

from lora_train import cli

EXAMPLES = {
    "train": ["config.toml"],
    "replay": ["case", "--checkpoint", "a", "--config", "b", "--out", "c"],
    "project": ["make", "hina"],
    "scan": ["images", "--json"],
    "crop": ["images", "--project", "hina", "--into", "10_hina", "--side", "512"],
    "mask": ["hina", "--way", "alpha", "--train", "with"],
    "captions": ["images", "audit"],
    "plan-style": ["--main", "40", "--face", "10"],
    "plan-person": ["hina=32"],
    "make-set": ["hina", "--name", "woman", "--prompt", "woman", "--count", "20"],
    "plan": ["images", "--enable_bucket", "--max_train_epochs", "3", "--optimizer_args", "a=1", "b=2"],
    "lr-find": ["config.toml", "--preset", "general"],
    "grid": ["--lora-dir", "a", "--name", "b", "--prompt", "c", "--out", "d.png"],
    "merge": ["A:1", "--presets", "a", "--lora-dir", "b", "--out", "c"],
    "resize": ["a", "--out", "b", "--rank", "8"],
    "presets": ["--file", "lbwpresets.txt", "check"],
    "inspect": ["a.safetensors"],
    "advise": ["face_weak"],
    "effects": ["A:1", "--lora-dir", "a", "--out", "b"],
    "tune": ["A:1", "--lora-dir", "a", "--out", "b", "--keep", "0.7"],
    "mini": ["models"],
    "demo": [],
    "ui": [],
}


def test_there_is_an_example_of_every_verb():
    assert EXAMPLES.keys() == cli._ROOMS.keys()


@pytest.mark.parametrize("verb", EXAMPLES)
def test_a_verb_knows_what_to_run(verb):
    arguments = [verb, *EXAMPLES[verb]]
    assert callable(cli._parser(arguments).parse_args(arguments).run)


@pytest.mark.parametrize("verb", EXAMPLES)
def test_a_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([verb, "--help"])
    assert "usage" in capsys.readouterr().out


def test_the_whole_help_names_every_verb(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    help_text = capsys.readouterr().out
    assert all(verb in help_text for verb in EXAMPLES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "none.toml"],
        ["project", "list", "none"],
        ["scan", "none"],
        ["crop", "none", "--project", "none", "--into", "10_a"],
        ["grid", "--lora-dir", "none", "--name", "b", "--prompt", "c", "--out", "d.png"],
        ["merge", "A:1", "--presets", "none.txt", "--lora-dir", "none", "--out", "c.safetensors"],
        ["resize", "none.safetensors", "--out", "c.safetensors", "--rank", "8"],
        ["replay", "none", "--checkpoint", "a", "--config", "none.toml", "--out", "c"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_not_there_is_named_with_exit_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "none" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
