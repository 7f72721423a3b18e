"""The engine's own packages: which, whether they work, and how they get there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_train.errors import UserError
from lora_train.jobs import packages

FAKE_PIP = """
import sys, pathlib
target = next((pathlib.Path(a.split("=", 1)[1]) for a in sys.argv if a.startswith("--target=")), None)
print("Collecting diffusers")
{what_it_does}
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the repository's own folder or remembers what another one found."""
    monkeypatch.setattr(packages, "PACKAGES", tmp_path / "packages")
    packages._problem.cache_clear()
    return tmp_path / "packages"


@pytest.fixture
def a1111(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with torch 2.1.2 and neither diffusers nor peft; training works in any folder. The folder it needs."""
    versions = {"torch": "2.1.2+cu121", "numpy": "1.26.2", "transformers": "4.30.2", "pip": "23"}
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, ""))
    monkeypatch.setattr(packages, "_probe", lambda folder: "")
    return packages.PACKAGES / f"cp{sys.version_info[0]}{sys.version_info[1]}-old-torch"


def pip_that(what_it_does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "pip.py"
    script.write_text(FAKE_PIP.format(what_it_does=what_it_does), encoding="utf-8")
    monkeypatch.setattr(packages, "pip_command", lambda: [sys.executable, str(script)])


@pytest.mark.parametrize(
    ("torch", "lock"),
    [
        ("2.1.2", "old"),
        ("2.3.1+cu121", "old"),
        ("2.5.1", "old"),
        ("2.6.0+cu126", "new"),
        ("2.13.0+cpu", "new"),
        ("2.9.0a0+git1234", "new"),
        ("3.0", "new"),
    ],
)
def test_the_set_follows_torch(torch: str, lock: str) -> None:
    assert packages.required(torch, (3, 10)).name == f"engine-{lock}-torch.txt"
    assert packages.required(torch, (3, 13)).is_file()


@pytest.mark.parametrize(
    ("torch", "python"), [("1.13.1", (3, 10)), ("2.0.1", (3, 10)), ("2.6.0", (3, 9)), ("?", (3, 11))]
)
def test_where_training_cannot_be(torch: str, python: tuple[int, int]) -> None:
    with pytest.raises(UserError):
        packages.required(torch, python)


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_lock_names_every_engine_package_once_per_python_with_hashes_and_no_host(name: str) -> None:
    text = (packages.LOCKS / f"engine-{name}-torch.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^([\w-]+)==\S+(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert set(packages.ENGINE) <= {block[0] for block in blocks}
    assert {"bitsandbytes", "dadaptation", "lion-pytorch", "prodigyopt", "schedulefree"} <= {b[0] for b in blocks}
    assert all("--hash=sha256:" in block[1] for block in blocks)
    assert "torch" not in {block[0] for block in blocks} and "numpy" not in {block[0] for block in blocks}
    assert re.findall(r"^-.*", text, re.MULTILINE) == ["--no-binary dadaptation"]  # there is no wheel of it
    assert "://" not in text and "index" not in text


def test_a_host_without_them(a1111: Path) -> None:
    found = packages.status()
    assert not found.ready and found.folder == a1111
    assert "diffusers" in found.missing and "transformers" not in found.missing
    with pytest.raises(UserError, match="not installed"):
        packages.environment()


def test_a_host_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_version", lambda name: "")
    assert packages.status().missing == ["torch"]


def test_installed_they_are_in_front_of_the_childs_path_only(
    a1111: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that("target.mkdir(); (target / 'diffusers.py').touch()", tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONHOME", "astray")
    before = (list(sys.path), dict(os.environ))
    lines: list[str] = []
    packages.install(lines.append)
    assert "Collecting diffusers" in lines
    assert packages.status() == packages.Status(True, [], a1111)
    environment = packages.environment()
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(a1111), str(packages.ROOT)]
    assert "PYTHONHOME" not in environment
    assert before == (list(sys.path), dict(os.environ))
    assert [path.name for path in packages.PACKAGES.iterdir()] == [a1111.name]


def test_what_worked_once_is_not_tried_again(a1111: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that("target.mkdir()", tmp_path, monkeypatch)
    packages.install(lambda line: None)
    tried: list[Path | None] = []
    monkeypatch.setattr(packages, "_probe", lambda folder: tried.append(folder) or "")
    assert packages.status().ready and not tried
    packages._problem.cache_clear()
    monkeypatch.setattr(packages.platform, "machine", lambda: "another")
    assert packages.status().ready and tried == [a1111]


@pytest.mark.parametrize(
    ("what_it_does", "sentence"),
    [
        ("sys.exit('ERROR: [Errno 28] No space left on device')", "disk is full"),
        (
            "sys.exit('WARNING: NewConnectionError\\nERROR: No matching distribution found for peft==1')",
            "downloaded",
        ),
        ("sys.exit('ERROR: No matching distribution found for peft==1')", "finds no peft==1 for"),
        ("sys.exit('ERROR: Cannot install peft==1 because these versions conflict')", "finds no peft==1 for"),
        ("sys.exit('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES')", "isn't the one"),
        ("sys.exit('ERROR: [Errno 13] Permission denied')", "can't be written"),
        ("sys.exit('ERROR: a new one')", "a new one"),
    ],
)
def test_a_failing_pip_leaves_what_was_there(
    a1111: Path, what_it_does: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a1111 / "kept").mkdir(parents=True)
    pip_that(f"target.mkdir(); {what_it_does}", tmp_path, monkeypatch)
    with pytest.raises(UserError, match=sentence):
        packages.install(lambda line: None)
    assert (a1111 / "kept").is_dir()
    assert [path.name for path in packages.PACKAGES.iterdir()] == [a1111.name]


def test_packages_that_do_not_work_are_not_put_in_place(
    a1111: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that("target.mkdir()", tmp_path, monkeypatch)
    monkeypatch.setattr(packages, "_probe", lambda folder: "ModuleNotFoundError: No module named 'regex'")
    with pytest.raises(UserError, match="regex"):
        packages.install(lambda line: None)
    assert not a1111.exists()
    fill(a1111)
    assert packages.status().missing == ["regex"]


def fill(folder: Path, lock: str = "") -> None:
    """The folder as an installation from our lock file, or from another one, leaves it."""
    folder.mkdir(parents=True)
    (folder / "locked.txt").write_text(lock or packages._digest(packages._lock()), encoding="utf-8")


def test_a_folder_made_from_another_lock_file_has_to_be_made_again(
    a1111: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_probe", lambda folder: "")
    fill(a1111, "an older one")
    assert "older version" in packages.status().message
    fill_again = a1111.with_name("other")
    a1111.rename(fill_again)
    fill(a1111)
    assert packages.status().ready


def test_a_full_disk_is_seen_first(a1111: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_SPACE_NEEDED", 2**60)
    with pytest.raises(UserError, match="disk is full"):
        packages.install(lambda line: None)


def test_leftovers_of_a_crash_go(a1111: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, running = packages.PACKAGES / ".cp310-old-torch.1.tmp", packages.PACKAGES / ".cp310-old-torch.2.tmp"
    old.mkdir(parents=True)
    running.mkdir()
    os.utime(old, (0, 0))
    pip_that("target.mkdir()", tmp_path, monkeypatch)
    packages.install(lambda line: None)
    assert not old.exists() and running.exists()


def test_pip_gets_nothing_that_leads_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_PROXY", "kept")
    assert "PIP_TARGET" not in packages.clean_environment()
    assert packages.clean_environment()["PIP_PROXY"] == "kept"


def test_without_pip_the_one_that_comes_with_python_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_version", lambda name: "")
    assert packages.pip_command()[1] == "-m" or Path(packages.pip_command()[1]).name == "pip"


def test_here_training_works_without_a_folder(own_place: Path) -> None:
    pytest.importorskip("peft")
    assert packages.status() == packages.Status(True, [], None)
    assert [path.name for path in own_place.iterdir()] == ["own-probed.txt"]


def test_the_installer_never_fails(root: Path, tmp_path: Path) -> None:
    (tmp_path / "install.py").write_bytes((root / "install.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "install.py"], capture_output=True, encoding="utf-8", cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Train LoRA: training packages not installed") and not done.stderr
