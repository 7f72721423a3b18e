"""Which parts of a WebUI our code uses, read from our source, and whether a WebUI's source has them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = [*(ROOT / "lora_train").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
PACKAGES = ("modules", "modules_forge", "backend", "ldm_patched", "networks")
SHARED = ("modules", "shared")
MEMORY = (("backend", "memory_management"), ("ldm_patched", "modules", "model_management"))
CALLS: dict[str, tuple[Chain, ...]] = {"shared": (SHARED,), "forge_memory": MEMORY}
"""What functions of host.webui.inside return."""

Chain = tuple[str, ...]


@dataclass
class Uses:
    """Symbols as chains of names. required: without them it fails; fallback: there is a way without them."""

    required: dict[Chain, set[str]] = field(default_factory=dict)
    fallback: dict[Chain, set[str]] = field(default_factory=dict)
    optional: set[Chain] = field(default_factory=set)
    """Modules that are looked for before they are used."""


def uses(files: Iterable[Path] = OWN) -> Uses:
    """Everything of a WebUI that these files touch, and where."""
    found = Uses()
    for path in files:
        _Reader(found, path).read()
    return found


class _Reader:
    """One file, function by function. A parameter stands for what its name stands for elsewhere in the file."""

    def __init__(self, found: Uses, path: Path) -> None:
        self._found, self._path = found, path
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._names: dict[str, tuple[Chain, ...]] = {}
        self._inner = {id(node.value) for node in ast.walk(self._tree) if isinstance(node, ast.Attribute)}

    def read(self) -> None:
        functions = list(_functions(self._tree))
        inside = {id(node) for function in functions for node in ast.walk(function)}
        outside = [node for node in ast.walk(self._tree) if id(node) not in inside]
        self._learn(outside)
        everywhere = dict(self._names)
        self._learn([*ast.walk(self._tree)])
        anywhere = dict(self._names)
        for nodes in (outside, *([*ast.walk(function)] for function in functions)):
            self._names = dict(everywhere)
            parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
            self._names |= {name: anywhere[name] for name in parameters & anywhere.keys()}
            self._learn(nodes)
            for node in nodes:
                self._touches(node)

    def _learn(self, nodes: list[ast.AST]) -> None:
        """What names stand for; names of names take a few rounds."""
        for node in nodes:
            self._imports(node)
        for _ in range(3):
            for node in nodes:
                self._assigns(node)

    def _imports(self, node: ast.AST) -> None:
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in PACKAGES:
            for name in node.names:
                chain = (*(node.module or "").split("."), name.name)
                self._names[name.asname or name.name] = (chain,)
                self._note(self._found.required, (chain,), node)

    def _assigns(self, node: ast.AST) -> None:
        if not isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) or node.value is None:
            return
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(name, ast.Name) and (chains := self._chains(value)):
                    self._names[name.id] = chains
                elif isinstance(name, ast.Name):
                    self._names.pop(name.id, None)

    def _touches(self, node: ast.AST) -> None:
        """Whole chains; and attributes by name, with what happens where they are missing."""
        if isinstance(node, ast.Attribute) and id(node) not in self._inner:
            if isinstance(node.ctx, ast.Load):
                self._note(self._found.required, self._chains(node), node)
            else:
                self._note(self._found.required, self._chains(node.value), node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name, text = node.func.id, _text(node)
            if name in ("getattr", "hasattr") and text:
                chains = tuple((*chain, text) for chain in self._chains(node.args[0]))
                certain = name == "getattr" and len(node.args) == 2
                self._note(self._found.required if certain else self._found.fallback, chains, node)
            elif name == "flag" and node.args and isinstance(node.args[0], ast.Constant):
                self._note(self._found.fallback, ((*SHARED, "cmd_opts", str(node.args[0].value)),), node)
        if isinstance(node, ast.Call):
            self._found.optional.update(self._looked_for(node))

    def _chains(self, node: ast.expr | None) -> tuple[Chain, ...]:
        """What an expression is of a WebUI's; nothing where it is none of that."""
        if isinstance(node, ast.Attribute):
            return tuple((*chain, node.attr) for chain in self._chains(node.value))
        if isinstance(node, ast.Name):
            return self._names.get(node.id, ())
        if isinstance(node, ast.BoolOp):
            return tuple(chain for value in node.values for chain in self._chains(value))
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                return CALLS[node.func.id]
            if isinstance(node.func, ast.Name) and node.func.id == "getattr" and _text(node):
                return tuple((*chain, _text(node)) for chain in self._chains(node.args[0]))
            return tuple(self._looked_for(node))
        return ()

    @staticmethod
    def _looked_for(node: ast.Call) -> Iterator[Chain]:
        """optional("modules.x") and sys.modules.get("modules.x")."""
        is_ours = isinstance(node.func, ast.Name) and node.func.id == "optional"
        is_loaded = ast.unparse(node.func) == "sys.modules.get"
        if (is_ours or is_loaded) and node.args and isinstance(node.args[0], ast.Constant):
            chain = tuple(str(node.args[0].value).split("."))
            if chain[0] in PACKAGES:
                yield chain

    def _note(self, kind: dict[Chain, set[str]], chains: Iterable[Chain], node: ast.AST) -> None:
        for chain in chains:
            kind.setdefault(chain, set()).add(f"{self._path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """The outermost ones, methods included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        else:
            yield from _functions(node)


def _text(call: ast.Call) -> str:
    """The second argument, where it is a plain string."""
    second = call.args[1] if len(call.args) > 1 else None
    return second.value if isinstance(second, ast.Constant) and isinstance(second.value, str) else ""


class Source:
    """A WebUI's source tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._file = lru_cache(maxsize=None)(self._look)
        self._texts = lru_cache(maxsize=None)(self._all_texts)

    def has_module(self, chain: Chain) -> bool:
        return self._file(chain) is not None or (self.root.joinpath(*chain)).is_dir()

    def has(self, chain: Chain) -> bool:
        """Whether all names of a chain are there, as far as the source tells it."""
        if chain[:3] in ((*SHARED, "opts"), (*SHARED, "cmd_opts")) and len(chain) > 3:
            return self._is_option(chain[2], chain[3])
        return self._attribute(chain)

    def _attribute(self, chain: Chain) -> bool:
        for length in range(len(chain), 0, -1):
            if self._file(chain[:length]) is not None:
                return self._follow(chain[:length], chain[length:])
        return self.has_module(chain)

    def _follow(self, module: Chain, rest: Chain) -> bool:
        """Names below a module."""
        if not rest:
            return True
        if self._file((*module, rest[0])) is not None:
            return self._follow((*module, rest[0]), rest[1:])
        tree = self._file(module)
        assert tree is not None
        found = [node for node in _top_level(tree) if rest[0] in _defined(node)]
        if not found:
            return rest[0] in _globals(tree)
        if len(rest) == 1:
            return True
        return any(self._member(module, node, rest) for node in found)

    def _member(self, module: Chain, node: ast.stmt, rest: Chain) -> bool:
        """rest[1] of the thing rest[0] which `node` defines; yes where nothing tells what that is."""
        if isinstance(node, ast.ClassDef):
            return self._of_class(module, node, rest[1])
        if isinstance(node, ast.ImportFrom) and not node.level:
            name = next(n.name for n in node.names if rest[0] == (n.asname or n.name))
            target = (*(node.module or "").split("."), name)
            return self.has((*target, *rest[1:])) if target[0] in PACKAGES else True
        kind = self._kind(module, node)
        return self._of_class(*kind, rest[1]) if kind else True

    def _kind(self, module: Chain, node: ast.stmt) -> tuple[Chain, ast.ClassDef] | None:
        """The class of what an assignment makes: of its annotation, or of the call on its right."""
        said: ast.expr | None = None
        if isinstance(node, ast.AnnAssign):
            said = node.annotation
            if isinstance(said, ast.Constant) and isinstance(said.value, str):
                said = ast.parse(said.value, mode="eval").body
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            said = node.value.func
        names = ast.unparse(said).split(".") if isinstance(said, (ast.Name, ast.Attribute)) else []
        return self._class(module, tuple(names)) if names else None

    def _class(self, module: Chain, names: Chain) -> tuple[Chain, ast.ClassDef] | None:
        tree = self._file(module)
        for node in _top_level(tree) if tree else ():
            if names[0] not in _defined(node):
                continue
            if isinstance(node, ast.ClassDef) and len(names) == 1:
                return module, node
            if isinstance(node, ast.ImportFrom) and not node.level:
                name = next(n.name for n in node.names if names[0] == (n.asname or n.name))
                base = tuple((node.module or "").split("."))
                return self._class((*base, name), names[1:]) if len(names) > 1 else self._class(base, (name,))
        return None

    def _of_class(self, module: Chain, node: ast.ClassDef, name: str) -> bool:
        """A name in the class's body, one that a method gives to self, or one of a base class."""
        body = {defined for statement in node.body for defined in _defined(statement)}
        given = {
            target.attr
            for target in ast.walk(node)
            if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
        }
        if name in body | given:
            return True
        for base in node.bases:
            found = self._class(module, tuple(ast.unparse(base).split(".")))
            if self._of_class(*found, name) if found else ast.unparse(base) != "object":
                return True
        return False

    def _is_option(self, kind: str, name: str) -> bool:
        """A setting or a flag that is declared, or what the object that holds them has besides."""
        if kind == "cmd_opts":
            signs = (f'"--{name.replace("_", "-")}"', f"'--{name.replace('_', '-')}'", f"cmd_opts.{name} = ")
        else:
            signs = (f'"{name}": OptionInfo(', f"'{name}': OptionInfo(", f'"{name}": shared.OptionInfo(')
            holder = self._class(("modules", "options"), ("Options",))
            if holder and self._of_class(*holder, name):
                return True
        return any(sign in text for text in self._texts() for sign in signs)

    def _all_texts(self) -> list[str]:
        folders = ("modules", "modules_forge", "extensions-builtin")
        files = (path for folder in folders for path in (self.root / folder).rglob("*.py"))
        marks = ("OptionInfo(", "add_argument(", "cmd_opts.")
        return [text for path in files if any(mark in (text := _read(path)) for mark in marks)]

    def _look(self, chain: Chain) -> ast.Module | None:
        path = self.root.joinpath(*chain).with_suffix(".py")
        if chain[0] == "networks":  # a top-level module of the built-in extension for LoRAs
            path = next(iter(self.root.glob("extensions-builtin/*ora/networks.py")), path) if len(chain) == 1 else path
        package = self.root.joinpath(*chain) / "__init__.py"
        file = path if path.is_file() else package if package.is_file() else None
        return ast.parse(_read(file)) if file else None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _top_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements of a module, those below `if`, `try` and `with` too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
            yield from _top_level(node)


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {name.asname or name.name.split(".")[0] for name in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def _globals(tree: ast.Module) -> set[str]:
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
