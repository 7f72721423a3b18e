"""Regular expressions in a process of their own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lora_train.errors import UserError
from lora_train.studio import captions, edits, limited
from lora_train.studio.captions import open_table, preview

from .drawn import put


@pytest.fixture
def table(tmp_path: Path) -> captions.Table:
    for number, text in enumerate(["red hat, 微笑", "a" * 40 + "!", "long_hair"]):
        put(tmp_path / f"{number}.png", caption=text)
    return open_table(tmp_path)


def made(find: str, by: str = "", **more: object) -> edits.Edit:
    return edits.from_dict({"edit": "replace", "find": find, "by": by, "regex": True, **more})


def test_it_does_what_the_process_itself_would(table: captions.Table) -> None:
    chain = [made(r"(red|blue) hat", r"\1 cap"), edits.from_dict({"edit": "add", "tags": "hina"})]
    assert preview(table, chain, seconds=20).changes == preview(table, chain).changes
    assert preview(table, chain, seconds=20).changes[0].after == "hina, red cap, 微笑"


def test_an_expression_that_takes_for_ever_is_ended(table: captions.Table) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match="takes longer than 1 seconds"):
        preview(table, made(r"(a+)+$"), seconds=1)
    assert time.monotonic() - begin < 10


def test_what_is_wrong_with_it_is_told(table: captions.Table) -> None:
    with pytest.raises(UserError, match="invalid group reference"):
        preview(table, made("hat", r"\7"), seconds=20)


def test_plain_text_needs_no_process(table: captions.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "texts", lambda *_: pytest.fail("a process is started"))
    plain = edits.from_dict({"edit": "replace", "find": "red hat", "by": "cap"})
    assert len(preview(table, plain, seconds=1).changes) == 1
