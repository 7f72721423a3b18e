"""A reader sees the old file or the new one."""

import errno
import os
import stat

import pytest

from lora_train import files
from lora_train.errors import UserError, UserErrors, raise_all


def test_the_file_appears_whole(tmp_path):
    with files.replace_file(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "new"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), files.replace_file(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_plainly(tmp_path):
    with pytest.raises(UserError, match="disk is full"), files.replace_file(tmp_path / "a") as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_the_mode_is_the_umasks_even_if_the_writer_made_a_private_file(tmp_path):
    with files.replace_file(tmp_path / "a") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600))
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize("name", ["hina", "hina v2", "日本", "a-b_c.1"])
def test_good_names(name):
    assert files.check_output_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a\\b", "C:x", "..", ".hidden", "con", "NUL.txt", "a,b", "x ", "a\n", "x" * 101, "a<b"]
)
def test_bad_names(name):
    with pytest.raises(UserError, match="output_name"):
        files.check_output_name(name)


def test_space(tmp_path):
    files.require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(UserError, match="MiB needed"):
        files.require_space(tmp_path, 2**62)


def test_errors_are_reported_together():
    first, second = UserError("a", where="x", remedy="Do y"), UserError("b")
    assert str(first) == "x: a. Do y"
    raise_all([])
    with pytest.raises(UserErrors, match=r"x: a\. Do y\nb"):
        raise_all([first, second])
