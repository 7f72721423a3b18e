"""Who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FACES = ("host", "ui")
ROOMS = (
    ("cli", "__main__"),
    ("ui",),
    ("demo",),
    ("jobs",),
    ("host",),
    ("measure",),
    ("grid",),
    ("blocks",),
    ("studio",),
    ("train",),
    ("network",),
    ("model",),
    ("plan",),
    ("dataset",),
)
"""From the top to the bottom; what isn't named is below them all."""

MODULES = sorted((ROOT / "lora_train").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

BLOCKED = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gradio", "modules", "modules_forge", "launch"):
            raise ImportError(f"{name} is the host's")
sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def room(path: Path) -> str:
    """A room's own cli.py belongs to the command line."""
    if path.name == "cli.py":
        return "cli"
    return path.relative_to(ROOT / "lora_train").parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports anywhere in it."""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) not in FACES], ids=dotted)
def test_only_the_faces_know_gradio_and_the_webui(path: Path) -> None:
    assert not {"gradio", "modules", "modules_forge", "launch"} & {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_room_imports_from_rooms_below_it(path: Path) -> None:
    floor = {name: level for level, names in enumerate(ROOMS) for name in names}
    own = floor.get(room(path), len(ROOMS))
    others = {name.split(".")[1] for name in imported(path) if name.startswith("lora_train.")} - {room(path)}
    assert not [name for name in others if floor.get(name, len(ROOMS)) < own]


def test_the_engine_runs_where_host_and_gradio_are_absent() -> None:
    pytest.importorskip("torch")
    names = [dotted(p) for p in MODULES if room(p) not in (*FACES, "__main__")]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *names], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_only_register(path: Path) -> None:
    """They may report a failure to start; what they register is in the package."""
    allowed = {"gradio", "modules", "lora_train", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imported(path)} <= allowed
    assert not [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef)]
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_what_the_installer_and_the_webui_use_needs_nothing_installed() -> None:
    code = "import lora_train.jobs.packages, sys; print(*(m.split('.')[0] for m in sys.modules))"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    loaded = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split()
    assert set(loaded) - set(sys.stdlib_module_names) <= {"lora_train", "__main__"}
