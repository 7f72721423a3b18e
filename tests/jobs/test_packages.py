"""The engine's own packages: which, whether they work, and how they get there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
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
    assert not list(packages.PACKAGES.glob("*.tmp"))
    assert re.search(sentence, packages.failed_before())


def test_a_failure_is_known_until_something_changes(
    a1111: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packages.failed_before() == ""
    pip_that("sys.exit('ERROR: ReadTimeoutError')", tmp_path, monkeypatch)
    with pytest.raises(UserError):
        packages.install(lambda line: None)
    assert "can't be downloaded" in packages.failed_before()
    assert "The last try failed: the packages can't be downloaded" in packages.status().message
    version = sys.version
    monkeypatch.setattr(packages.sys, "version", "another")
    assert packages.failed_before() == ""
    monkeypatch.setattr(packages.sys, "version", version)
    pip_that("target.mkdir()", tmp_path, monkeypatch)
    packages.install(lambda line: None)
    assert packages.failed_before() == ""
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


def test_without_any_pip_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_version", lambda name: "")
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(UserError, match="has no pip"):
        packages.pip_command()


@pytest.mark.parametrize("place", ["a file", "no permission"])
def test_where_nothing_can_be_written(a1111: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that("target.mkdir()", tmp_path, monkeypatch)
    if place == "a file":
        packages.PACKAGES.write_text("", encoding="utf-8")
    else:
        if os.name == "nt" or os.geteuid() == 0:
            pytest.skip("this user may write everywhere")
        tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="can't be written"):
            packages.install(lambda line: None)
        assert not packages.status().ready
        packages.failed_before()
    finally:
        tmp_path.chmod(0o700)


def test_what_would_be_found(a1111: Path) -> None:
    for name, version in (("Diffusers", "0.31.0"), ("huggingface_hub", "0.26.2"), ("bitsandbytes", "0.45.5")):
        (a1111 / f"{name}-{version}.dist-info").mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (a1111 / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    found = packages.versions(a1111)
    assert (found["diffusers"], found["huggingface-hub"], found["peft"]) == ("0.31.0", "0.26.2", "")
    assert found["bitsandbytes"] == "0.45.5"
    assert packages.versions(None)["transformers"] == "4.30.2"
    assert packages.wanted() > len(packages.ENGINE)


def test_here_training_works_without_a_folder(own_place: Path) -> None:
    pytest.importorskip("peft")
    assert packages.status() == packages.Status(True, [], None)
    assert [path.name for path in own_place.iterdir()] == ["own-probed.txt"]


# install.py as the WebUI runs it, in a copy of the extension

HOST = """
import sys
from importlib import metadata
from lora_train.jobs import packages
versions = {"torch": "2.1.2", "numpy": "1.26.2", "pip": "23"}
def version(name):
    if name in versions:
        return versions[name]
    raise metadata.PackageNotFoundError(name)
metadata.version = version
packages._probe = lambda folder: ""
"""


@pytest.fixture
def extension(root: Path, tmp_path: Path) -> Path:
    """A copy with the modules that the installer needs, in a host with an old torch and nothing else."""
    extension = tmp_path / "extension"
    for name in ("install.py", "lora_train/__init__.py", "lora_train/jobs/__init__.py", "lora_train/jobs/packages.py"):
        copy(root / name, extension / name)
    for name in ("errors", "files", "paths"):
        copy(root / "lora_train" / f"{name}.py", extension / "lora_train" / f"{name}.py")
    copy(root / "requirements" / "engine-old-torch.txt", extension / "requirements" / "engine-old-torch.txt")
    return extension


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def started(
    extension: Path, pip: str = "", python: str = sys.executable, before: str = HOST, **more: str
) -> tuple[str, float]:
    """What install.py prints in that host, and its seconds; its exit code is 0 and nothing goes to stderr."""
    script = extension.with_name("pip.py")
    script.write_text(FAKE_PIP.format(what_it_does=pip), encoding="utf-8")
    given = f"packages.pip_command = lambda: [sys.executable, {str(script)!r}]\n" if pip else ""
    run = f"import runpy\nrunpy.run_path({str(extension / 'install.py')!r}, run_name='__main__')\n"
    code = f"import sys\nsys.path.insert(0, {str(extension)!r})\n{before}{given}{run}"
    environment = {name: value for name, value in os.environ.items() if name != "COMMANDLINE_ARGS"} | more
    began = time.monotonic()
    done = subprocess.run(
        [python, "-c", code], capture_output=True, encoding="utf-8", cwd=extension, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, time.monotonic() - began


def test_the_second_start_does_no_work(extension: Path) -> None:
    first, _ = started(extension, "target.mkdir(); (target / 'diffusers.py').touch()")
    assert "about 200 MB" in first and first.endswith("training packages installed.\n")
    stamps = {path: path.stat().st_mtime_ns for path in (extension / "packages").rglob("*")}
    second, seconds = started(extension, "raise SystemExit('pip must not run')")
    assert second == "Train LoRA: training packages ready.\n"
    assert {path: path.stat().st_mtime_ns for path in (extension / "packages").rglob("*")} == stamps
    assert seconds < 10  # what is left is starting Python


def test_offline_the_second_start_does_not_wait_again(extension: Path) -> None:
    first, _ = started(extension, "sys.exit('ERROR: NewConnectionError')")
    assert "can't be downloaded" in first
    second, _ = started(extension, "raise SystemExit('pip must not run')")
    assert "can't be downloaded" in second and "See the tab" in second
    assert "about 200 MB" not in second


def test_really_offline(extension: Path) -> None:
    """pip itself, with a network that refuses every connection."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull}
    said, seconds = started(extension, **nowhere)
    assert "can't be downloaded" in said, said
    assert seconds < 60


@pytest.mark.parametrize("flags", ["--skip-install", "--medvram --skip-install --xformers"])
def test_skip_install_is_obeyed(extension: Path, flags: str) -> None:
    said, _ = started(extension, "raise SystemExit('pip must not run')", COMMANDLINE_ARGS=flags)
    assert "--skip-install" in said
    assert not (extension / "packages").exists()


def test_a_pip_that_breaks_or_is_not_there(extension: Path) -> None:
    assert "pip failed with code 3" in started(extension, "sys.exit(3)")[0]
    (extension / "packages").rename(extension / "before")
    without = HOST.replace('"pip": "23"', '"x": "1"') + "sys.modules['ensurepip'] = None\n"
    assert "has no pip" in started(extension, before=without)[0]


def test_a_folder_that_cannot_be_written(extension: Path) -> None:
    (extension / "packages").write_text("in the way", encoding="utf-8")
    assert "can't be written" in started(extension, "target.mkdir()")[0]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="another user is needed")
def test_an_extension_of_another_user(extension: Path) -> None:
    """Everything may be read and nothing written."""
    above = Path(tempfile.gettempdir()).resolve()
    for folder in (folder for folder in extension.resolve().parents if above in folder.parents):
        folder.chmod(0o755)
    drop = "import os, pkgutil, runpy\nos.setgid(65534)\nos.setuid(65534)\n"
    said, _ = started(extension, "target.mkdir()", before=HOST + drop)
    assert "can't be written" in said
    assert not (extension / "packages").exists()


def test_torch_too_old_or_absent(extension: Path) -> None:
    assert "PyTorch 1.13.1 is too old" in started(extension, before=HOST.replace("2.1.2", "1.13.1"))[0]
    assert "PyTorch is not installed" in started(extension, before=HOST.replace('"torch"', '"torchless"'))[0]


@pytest.mark.parametrize("version", [(3, 8), (3, 9), (3, 14), (4, 0)])
def test_a_python_that_is_not_supported(extension: Path, version: tuple[int, int]) -> None:
    patched = f"{HOST}sys.version_info = ({version[0]}, {version[1]}, 0, 'final', 0)\n"
    said, _ = started(extension, "raise SystemExit('pip must not run')", before=patched)
    assert f"Python {version[0]}.{version[1]} is not supported" in said
    assert "200 MB" not in said


PYTHONS = [f"python3.{minor}" for minor in range(6, 14)]


@pytest.mark.parametrize("name", PYTHONS)
def test_other_pythons(extension: Path, name: str) -> None:
    """Those that are here and start; without torch, so that there is nothing to install."""
    places = [shutil.which(name), *Path.home().glob(f".pyenv/versions/{name[6:]}.*/bin/{name}")]
    python = next((str(place) for place in places if place and starts(place)), "")
    if not python:
        pytest.skip(f"there is no {name} here")
    said, _ = started(extension, python=python, before="")
    assert ("is not supported" if int(name[8:]) < 10 else "PyTorch is not installed") in said


def starts(python: str | Path) -> bool:
    return subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode == 0


def test_nothing_of_the_extension_there_but_the_installer(root: Path, tmp_path: Path) -> None:
    copy(root / "install.py", tmp_path / "install.py")
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "install.py"], capture_output=True, encoding="utf-8", cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Train LoRA: training packages not installed") and not done.stderr
