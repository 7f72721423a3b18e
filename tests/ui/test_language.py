"""The Chinese texts: one for every text of the sources, with the same slots; and that the sources' texts are found."""

from __future__ import annotations

import json
import re

import pytest

from lora_train.settings.presets import PRESETS
from tools import texts

NAMES = {
    *(
        "DoRA",
        "rsLoRA",
        "xformers",
        "UNet",
        "Dropout",
        "Loss",
        "Train LoRA",
        "the LoRA",
        "Min SNR gamma",
        "CFG {scale}",
    ),
    *("{number} GiB", "OpenCV YuNet", "RetinaFace (facexlib)"),
    *("Stable Diffusion 1.5", "Stable Diffusion 2", "Stable Diffusion XL"),
}
"""What is called the same in Chinese."""


def test_every_text_has_a_translation() -> None:
    missing = [f"{text!r}: {place}" for text, place in texts.missing().items()]
    assert not missing, "python -m tools.texts missing\n" + "\n".join(missing)


def test_no_translation_is_left_over() -> None:
    assert not texts.stale()


def test_translations_have_the_slots_of_their_texts() -> None:
    found = texts.SLOT.findall
    assert not [one for one in texts.translated().items() if sorted(found(one[0])) != sorted(found(one[1]))]


def test_translations_are_chinese_with_chinese_punctuation() -> None:
    chinese = re.compile("[\u3000-\u9fff\uff00-\uffef]")
    english = {text for text, told in texts.translated().items() if not chinese.search(told)}
    assert {text for text in english if re.search("[A-Za-z]", texts.SLOT.sub("", texts.translated()[text]))} <= NAMES
    ascii_marks = re.compile(r"[\u4e00-\u9fff][,;:?!]( |$)|[\u4e00-\u9fff]\.$")
    assert not [told for told in texts.translated().values() if ascii_marks.search(told)]


def test_what_has_numbered_slots_is_a_pattern() -> None:
    catalogue = texts.catalogue()
    assert catalogue.keys() == {"texts", "patterns"}
    assert all(re.search(r"\{\d+\}", text) for text in catalogue["patterns"])
    assert not any(re.search(r"\{\d+\}", text) for text in catalogue["texts"])


def test_recipes_are_called_as_their_declaration_says() -> None:
    assert {one.title_en: texts.translated()[one.title_en] for one in PRESETS} == {
        one.title_en: one.title_zh for one in PRESETS
    }


# How texts are found


def python(source: str, tmp_path, page: bool = True) -> list[str]:
    file = tmp_path / "source.py"
    file.write_text(source, encoding="utf-8")
    return [text for _, text in texts._python(file, page, True)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('raise UserError("missing", remedy="Mend it")', ["missing", "Mend it"]),
        ('what = "no such file here"', ["no such file here"]),
        ('raise UserError(f"there is no {name!r} in {folder}")', ["there is no {0} in {1}"]),
        ("x = f\"{n} file{'' if n == 1 else 's'} left\"", ["{0} file left", "{0} files left"]),
        ('warn(f"left out: {a}" + f" and {b} more")', ["left out: {0} and {1} more"]),
        ('gr.Button("Start")', ["Start"]),
        ('gr.Markdown("### While training")', ["While training"]),
        ('gr.HTML(f"<p><b>{n}</b> of them are <i>smaller</i></p>")', ["of them are"]),
        ('gr.HTML("<p>Two words <pre>not these words</pre></p>")', ["Two words"]),
        ('remedy = "Name the folder <repeats>_<name>"', ["Name the folder <repeats>_<name>"]),
        ('def f():\n    """What it does for people."""', []),
        ('raise ValueError("a bug of ours")', []),
        ('row["some long key"] == "other value here"', []),
        ('{"preferred weight here": 1}', []),
        ('re.compile("No space left")', []),
        (
            'x = {"a": f"{_table(["Picture", "Caption"])}"}'.replace('"Picture", "Caption"', "'Picture', 'Caption'"),
            ["Picture", "Caption"],
        ),
    ],
)
def test_texts_of_python(source: str, found: list[str], tmp_path) -> None:
    assert sorted(python(source, tmp_path)) == sorted(found)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('t("Step {step}", { step: "not this" })', ["Step {step}"]),
        ('trainLora.t(paused ? "Go on" : "Pause")', ["Go on", "Pause"]),
        ("t('It\\'s \"there\"')", ['It\'s "there"']),
        ('const NAMES = { queued: /* t */ "Waiting" };', ["Waiting"]),
        ('list("not this"); first("nor this"); x.t2("nor")', []),
    ],
)
def test_texts_of_scripts(source: str, found: list[str]) -> None:
    assert [text for _, text in texts.scripted(source)] == found


def test_lines_are_taken_into_the_catalogue(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(texts, "CATALOGUE", tmp_path / "zh-CN.json")
    monkeypatch.setattr(texts, "found", lambda: {"Start": "a", "{0} of\n{1}": "b", "Stop": "c"})
    texts.catalogue.cache_clear()
    (tmp_path / "zh-CN.json").write_text('{"texts": {"Start": "旧", "Gone": "走"}, "patterns": {}}', encoding="utf-8")
    (tmp_path / "lines").write_text("Start\t开始\n{0} of\\n{1}\t{1}\\n的 {0}\tplace\n", encoding="utf-8")
    try:
        assert texts.main(["add", str(tmp_path / "lines")]) == 0
        written = json.loads((tmp_path / "zh-CN.json").read_text(encoding="utf-8"))
        assert written == {"texts": {"Start": "开始"}, "patterns": {"{0} of\n{1}": "{1}\n的 {0}"}}
        assert texts.main(["check"]) == 1
    finally:
        texts.catalogue.cache_clear()


def test_the_route_serves_the_catalogue(client) -> None:
    from .web import V1

    answer = client.get(f"{V1}/language/zh-CN")
    assert answer.status_code == 200
    assert answer.json() == texts.catalogue()
    assert client.get(f"{V1}/language/xx").status_code == 404
