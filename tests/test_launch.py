"""launch.py: what a user of a bare machine meets."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

NEEDED = ("launch.py", "pyproject.toml", "constraints.txt")
ENGINE = ("__init__.py", "errors.py", "files.py", "paths.py", "jobs/__init__.py", "jobs/packages.py")
ECHO = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ.get("PYTHONHOME"), os.environ["PYTHONPATH"], os.getcwd(), sys.prefix]))
"""


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """What launch.py needs of the repository, in a folder with a space and other scripts' letters."""
    target = tmp_path / "LoRA träning 训练"
    for name in (*NEEDED, *(f"lora_train/{file}" for file in ENGINE)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, target / name)
    return target


@pytest.fixture
def launch(copy: Path) -> ModuleType:
    """The copy's launch.py as a module."""
    spec = importlib.util.spec_from_file_location("launch_of_copy", copy / "launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(launch: ModuleType, copy: Path) -> Path:
    """The copy as a first start leaves it, but without packages; its engine tells how it was started."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", copy / ".venv"], check=True)
    launch.stamps("")[0].write_text(launch.fingerprint(), encoding="utf-8")
    (copy / "lora_train/__main__.py").write_text(ECHO, encoding="utf-8")
    return copy


def start(copy: Path, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, copy / "launch.py", *arguments],
        cwd=cwd,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )


def test_older_pythons_can_parse_it(root: Path) -> None:
    tree = ast.parse((root / "launch.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    annotations = [a.annotation for f in functions for a in [*f.args.args, f.args.vararg] if a]
    annotations += [f.returns for f in functions]
    assert {type(a) for a in annotations} <= {ast.Name, ast.Constant}, "quote it: older Pythons evaluate annotations"


def test_it_imports_the_standard_library_only_before_it_has_installed_more(root: Path) -> None:
    tree = ast.parse((root / "launch.py").read_text(encoding="utf-8"))
    imports = [name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names]
    imports += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imports} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("version", "system", "machine", "word"),
    [
        ((3, 9), "linux", "x86_64", "3.10 to 3.13"),
        ((3, 14), "win32", "AMD64", "3.10 to 3.13"),
        ((3, 12), "darwin", "x86_64", "Intel"),
    ],
)
def test_what_cannot_work_is_refused(
    launch: ModuleType, version: tuple[int, int], system: str, machine: str, word: str
) -> None:
    with pytest.raises(launch.Refusal, match=word):
        launch.check_python(version, system, machine)


def test_what_works_is_not(launch: ModuleType) -> None:
    launch.check_python((3, 10), "linux", "x86_64")
    launch.check_python((3, 13), "darwin", "arm64")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_installs_nothing(copy: Path, arguments: list[str]) -> None:
    told = start(copy, *arguments)
    assert told.returncode == 0 and "launch.py demo" in told.stderr
    assert not (copy / ".venv").exists()


def test_without_the_venv_module(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = b"The virtual environment was not created successfully because ensurepip is not\navailable."
    monkeypatch.setattr(launch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, said))
    monkeypatch.setattr(launch, "venv_works", lambda: False)
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**40))
    assert launch.main(["demo"]) == 2
    assert f"apt install python3.{sys.version_info[1]}-venv" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "sentence"), [(b"[Errno 28] No space left", "disk is full"), (b"?", "code 1")])
def test_when_the_venv_cannot_be_made(
    launch: ModuleType, said: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, said))
    monkeypatch.setattr(launch, "venv_works", lambda: False)
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**40))
    assert launch.main(["demo"]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_a_full_disk_is_seen_before_anything_is_downloaded(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**20))
    assert launch.main(["demo"]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not launch.VENV.exists()


def test_a_folder_that_cannot_be_written(
    launch: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(launch, "make_venv", refuse)
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**40))
    assert launch.main(["demo"]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_offline_with_a_half_made_environment(copy: Path) -> None:
    """The environment is completed, and then one sentence says that the packages can't be had."""
    broken = copy / (".venv/Scripts/python.exe" if os.name == "nt" else ".venv/bin/python")
    broken.parent.mkdir(parents=True)
    broken.write_text("half of a Python")
    config = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    told = start(copy, "demo", **config, PYTHONPATH="astray", PATH="")
    last = told.stderr.splitlines()[-1]
    assert told.returncode == 2
    assert last.startswith("launch.py: pip finds no torch==") and "internet" in last
    assert "Traceback" not in told.stderr and not told.stdout
    assert not list(copy.glob(".venv/installed-*"))
    assert subprocess.run([broken, "-m", "pip", "--version"], stdout=subprocess.DEVNULL).returncode == 0


def test_the_second_start_is_quick_and_nothing_of_the_callers_python_leaks(installed: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    told = start(installed, "train", "a b.toml", "--events", cwd=tmp_path, PYTHONPATH=str(tmp_path / "modules"))
    assert time.monotonic() - began < 2
    assert told.returncode == 0 and not told.stderr
    arguments, home, path, cwd, prefix = ast.literal_eval(told.stdout.replace("null", "None"))
    assert arguments == ["train", "a b.toml", "--events"]
    assert (home, path) == (None, str(installed))
    assert Path(cwd) == tmp_path and Path(prefix) == installed / ".venv"


def test_the_stamp_follows_what_is_declared(launch: ModuleType) -> None:
    before = launch.fingerprint()
    assert launch.fingerprint() == before
    for file in (launch.ROOT / "pyproject.toml", launch.CONSTRAINTS):
        file.write_text(file.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        assert launch.fingerprint() != before
        before = launch.fingerprint()


def test_the_packages_for_tests_come_with_the_first_test(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    monkeypatch.setattr(launch, "make_venv", lambda: launch.venv_python().parent.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(launch, "install", lambda extra: (did.append(extra), launch.venv_python().touch()))
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2**40))
    for extra in ("", "", "test", "test", ""):
        launch.prepare(extra)
    assert did == ["", "test"]


def test_which_builds_of_pytorch_are_tried(launch: ModuleType) -> None:
    assert [build for build, _ in launch.torch_builds("linux", False)] == ["cpu", "cpu"]
    assert launch.torch_builds("linux", True) == [] == launch.torch_builds("darwin", False)
    assert launch.torch_builds("win32", True)[1][1] == [f"--extra-index-url={launch.PYTORCH_INDEX}{launch.CUDA}"]


def test_torch_falls_back_where_there_is_no_such_build(launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_train.errors import UserError
    from lora_train.jobs import packages

    asked: list[str] = []

    def only_the_ordinary_one(pip: list[str], arguments: list[str], progress: object = None) -> None:
        asked.append(next(a for a in arguments if a.startswith("torch==")))
        if "+" in asked[-1]:
            raise UserError(f"pip finds no {asked[-1]} for this machine")

    monkeypatch.setattr(packages, "run_pip", only_the_ordinary_one)
    monkeypatch.setattr(launch, "in_venv", lambda *_: "")
    monkeypatch.setattr(launch, "torch_builds", lambda *_: [("cpu", []), ("cpu", ["--extra-index-url=x"])])
    launch.install_torch(["pip"], [])
    assert [a.partition("+")[2] for a in asked] == ["cpu", "cpu", ""]


def test_half_installed_packages_are_installed_again(launch: ModuleType, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    for name, size in (("whole", 5), ("half", 9), ("gone", None)):
        (site / f"{name}-1.dist-info").mkdir(parents=True)
        (site / f"{name}-1.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        if size:
            (site / f"{name}.py").write_text("x = 1")
            (site / f"{name}-1.dist-info/RECORD").write_text(f"{name}.py,sha256=,{size}\n{name}-1.dist-info/RECORD,,\n")
    command = [sys.executable, "-S", "-c", launch.FORGET_HALF_INSTALLED]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(site)}, check=True, stdout=subprocess.DEVNULL)
    assert [path.name for path in site.glob("*.dist-info")] == ["whole-1.dist-info"]


def test_every_declared_package_is_pinned(launch: ModuleType) -> None:
    told = subprocess.run(
        [sys.executable, "-c", launch.READ_DECLARED, launch.ROOT / "pyproject.toml", "test"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    pinned = {line.partition("==")[0].lower() for line in launch.CONSTRAINTS.read_text("utf-8").splitlines()}
    declared = {line.replace("<", ">").partition(">")[0].strip().lower() for line in told.stdout.splitlines()}
    assert "torch" in declared and declared <= pinned
