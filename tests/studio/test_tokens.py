"""Token counts without transformers, held against the tokenizer that trains."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_train.paths import ROOT
from lora_train.studio import tokens


@lru_cache(maxsize=1)
def real() -> Any:
    pytest.importorskip("transformers")
    from lora_train.model.tokenizer import load_tokenizer

    return load_tokenizer()


def really(caption: str) -> int:
    from ftfy import fix_text

    return len(real()(fix_text(caption)).input_ids) - 2


CAPTIONS = [
    "",
    " ,, ",
    "1girl, solo, long hair, looking at viewer, (smile:1.2), <lora:x:1>",
    "a photograph of a woman standing in the rain, she's got an umbrella; it isn't hers, they'll see",
    "café, naïve, Ångström – Straße, “quoted”, it’s",
    "1girl, 微笑, 蓝色的天空, スカート, 한국어, Привет",
    "^_^, o_o, >:(, \\(style\\), hina_v2, score_9_up",
    "😀👩‍👩‍👧 ½ ² Ⅷ ①  ＡＢＣ &amp; ...!!!???",
    "antidisestablishmentarianism supercalifragilisticexpialidocious qwertzuiopqwertzuiop",
    "2023-05-12 1920x1080 50mm f/1.8",
    "  double   spaces\tand\ttabs ",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_as_the_real_tokenizer(caption: str) -> None:
    assert tokens.count(caption) == really(caption)


TAGS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("C", "Z"), max_codepoint=0x2FFF), max_size=12)


@settings(max_examples=300)
@given(st.lists(TAGS, max_size=8))
def test_as_the_real_tokenizer_for_any_tags(tags: list[str]) -> None:
    caption = ", ".join(tags)
    assert tokens.count(caption) == really(caption)


def test_nothing_is_imported_that_a_host_may_lack() -> None:
    """The studio runs in the WebUI's process."""
    heavy = ["torch", "transformers", "tokenizers", "diffusers", "peft", "gradio", "fastapi", "regex"]
    rooms = ("tokens", "captions", "edits", "audit", "style_plan", "person_plan")
    modules = ", ".join(f"lora_train.studio.{name}" for name in rooms)
    code = f"import sys, {modules}; lora_train.studio.tokens.count('a hat'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & set(heavy)
