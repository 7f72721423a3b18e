"""An update of the extension under a running WebUI is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train import stamp


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ui").mkdir()
    (tmp_path / "ui" / "tab.py").write_text("old", encoding="utf-8")
    monkeypatch.setattr(stamp, "PACKAGE", tmp_path)
    monkeypatch.setattr(stamp, "LOADED", stamp.stamp())
    return tmp_path


def test_the_same_files_written_again_are_the_same(package: Path) -> None:
    (package / "ui" / "tab.py").write_text("old", encoding="utf-8")
    (package / "ui" / "notes.txt").write_text("not code", encoding="utf-8")
    assert not stamp.outdated()


@pytest.mark.parametrize(("name", "text"), [("ui/tab.py", "new"), ("ui/more.py", "new"), ("ui/tab.py", None)])
def test_an_update_is_seen(package: Path, name: str, text: str | None) -> None:
    (package / name).unlink() if text is None else (package / name).write_text(text, encoding="utf-8")
    assert stamp.outdated()


def test_here_nothing_was_updated() -> None:
    assert stamp.PACKAGE.name == "lora_train"
