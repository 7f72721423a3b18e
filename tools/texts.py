"""The tab's English texts, found in the sources, and which of them lack a translation: `python -m tools.texts`.

A text is a constant, or an f-string whose values are the slots {0}, {1}, … in their order; in javascript/ it is what
`t("…")` is given. `python -m tools.texts missing` prints those without a Chinese one as lines of `English<tab>` to be
filled in, `add FILE` takes such lines into the catalogue and drops what no source holds any more, `stale` prints that,
and `check` ends with 1 where anything is missing or stale.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

from lora_train.paths import ROOT
from lora_train.settings import schema
from lora_train.settings.presets import PRESETS
from lora_train.ui.labels import label

CATALOGUE = ROOT / "lora_train" / "ui" / "languages" / "zh-CN.json"
SLOT = re.compile(r"\{\w+\}")

_COMMAND_LINE = re.compile(r"(.*_)?cli\.py|__main__\.py")
_SCHEMAS = re.compile(r"lora_train/ui/routes/schemas\w*\.py")
_SILENT_FILES = """
blocks/metadata blocks/report chart demo/run grid/sheet host/__init__ lean train/lr_find train/metadata train/replay
ui/report ui/routes/openapi ui/standalone
"""
"""Not said in the tab: pictures that we draw, the report for an issue, the API's description, what a terminal shows."""
_SILENT_CALLS = """
compile search match fullmatch sub split partition replace startswith endswith removeprefix strip add_argument
add_parser ArgumentParser Thread write print ref listed import_module TypeVar getLogger Route ValueError TypeError
RuntimeError KeyError AssertionError NotImplementedError ScriptError OSError
"""
_PROMPTS = {"SUBJECT", "VIEWS", "NEGATIVE", "NEUTRAL_TAGS", "NEUTRAL_SENTENCES"}
"""Names of constants that hold prompts for a checkpoint."""
_ELSEWHERE = {f"lora_train/{name}.py" for name in _SILENT_FILES.split()}
_NO_TEXT_CALLS = set(_SILENT_CALLS.split())
_TEXT_CALLS = {"UserError", "HTTPException", "_wrong"}
_PROSE = re.compile(r"[A-Za-z]{2,}[^A-Za-z]* [^ ]*[A-Za-z]{2,}|[A-Za-z]{2,}[^ ]* \{|\} [^ ]*[a-z]{2,}")
_WORD = re.compile(r"[A-Z][a-z]{2,}( [a-z]+)*[…:]?")
_TAG = re.compile(
    r"</?(?:p|b|i|a|span|div|details|summary|small|ul|li|h\d|code|pre|button|table|thead|tbody|tr|t[hd]|d[ltd])\b[^>]*>"
)
_TECHNICAL = re.compile(
    r"^[A-Z0-9 ]*$|^[\w.\-/\\*|:<>%=+]*$|[\\^$]|^\W*$|<svg|\(\) =>|--[a-z]+(-[a-z]+)* [A-Z]|\w\|\w[^}]*$"
    r"|max-age=|no-cache|Negative prompt: \{|^(Steps|Sampler|CFG scale|Seed|Size|Model|Clip skip): \{|^import "
)

_SILENT_TEXTS = """
Schedule type|Clip skip|other epochs|preferred weight|activation text|sd version|lora block weight|LoRA block numbers
Block preset|Train LoRA: training|Euler|Euler a|Basic|[Train LoRA] {0}|DO NOT MATCH THE HASHES|Train LoRA: {0}
Negative prompt: {0}|encoding {0}, {1} of {2}|{0} has {1}|{0} holds {1}|{0} plus|{0}: {1} in {2}|No module named pip
weight_decay=0.01 betas=0.9,0.99|events to leave out|a job's id; the running job, else the last one|broken pipe
drawn for settings without ip_noise_gamma|connection closed by peer|connection reset|timed out waiting
Networks with errors: |Hires prompt|{0} project
"""
IGNORED = frozenset(_SILENT_TEXTS.strip().replace("\n", "|").split("|"))
"""What looks like words but isn't said to anyone: names in files, patterns, drawings."""

_GRADIO = "Drop File Here|Click to Upload|- or -|or|More tabs|File upload|Click to upload or drop files|Textbox"
GRADIO = tuple(_GRADIO.split("|"))
"""gradio's own words inside our tab."""

STAGES = ("training", "drawing", "encoding pictures, {0} of {1}", "encoding captions, {0} of {1}")
PARTS = ("weights {0} GiB", "activations {0} GiB", "LoRA and optimizer {0} GiB", "{0} s", "{0} min", "{0} h")
"""What a job says of itself in one word, or puts together from words."""


def found() -> dict[str, str]:
    """{text: where it stands} of all sources, in their order."""
    texts: dict[str, str] = {}
    for text in (*GRADIO, *STAGES, *PARTS):
        texts.setdefault(text, "tools/texts.py")
    for row in schema():
        for text in (row["section"], row["help"], label(row["name"])):
            texts.setdefault(text, "lora_train/settings/options.py")
    for one in PRESETS:
        for text in (one.title_en, one.note):
            texts.setdefault(text, "lora_train/settings/presets.py")
    for path in sorted((ROOT / "lora_train").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name in ("lora_train/settings/options.py", "lora_train/settings/presets.py"):
            continue
        said = name not in _ELSEWHERE and not _COMMAND_LINE.fullmatch(path.name) and not _SCHEMAS.fullmatch(name)
        for line, text in _python(path, name.startswith("lora_train/ui/"), said):
            texts.setdefault(text, f"{name}:{line}")
    texts.setdefault("there is no preset {0}", "lora_train/settings/presets.py")
    for path in sorted((ROOT / "javascript").glob("*.js")):
        for line, text in scripted(path.read_text(encoding="utf-8")):
            texts.setdefault(text, f"javascript/{path.name}:{line}")
    return {text: place for text, place in texts.items() if text not in IGNORED}


# Python


def _python(path: Path, of_the_page: bool, everything: bool) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent: set[int] = set()
    said: set[int] = set()
    told: set[int] = set()  # events, which a command line says too
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(id(node.value))  # a docstring
        elif isinstance(node, ast.Call) and _called(node) in _NO_TEXT_CALLS:
            silent.update(map(id, _inside(node)))
        elif isinstance(node, ast.Call) and _called(node) in _TEXT_CALLS:
            given = [*node.args[:2], *(k.value for k in node.keywords if k.arg in ("what", "remedy"))]
            said.update(id(one) for argument in given for one in _branches(argument))
        elif isinstance(node, ast.Call) and _called(node) == "event":
            told.update(id(one) for k in node.keywords if k.arg == "text" for one in _branches(k.value))
        elif isinstance(node, ast.Dict):
            silent.update(id(key) for key in node.keys if key is not None)
        elif isinstance(node, (ast.Subscript, ast.Compare)):
            silent.update(map(id, _inside(node.slice if isinstance(node, ast.Subscript) else node)))
        elif isinstance(node, ast.AnnAssign):
            silent.update(map(id, _inside(node.annotation)))
        elif isinstance(node, ast.Assign) and {getattr(target, "id", "") for target in node.targets} & _PROMPTS:
            silent.update(map(id, _inside(node)))
        elif isinstance(node, ast.FunctionDef) and node.name == "routes":
            silent.update(map(id, _inside(node)))  # the API's description
    for node in ast.walk(tree):
        if isinstance(node, (ast.JoinedStr, ast.BinOp)) and id(node) not in silent and _texts(node):
            silent.update(map(id, _parts(node)))
        elif not isinstance(node, ast.Constant) or id(node) in silent:
            continue
        if not everything and id(node) not in told:
            continue
        for text in _texts(node):
            for piece in _pieces(text):
                if _is_text(piece, id(node) in said, of_the_page):
                    yield node.lineno, piece


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _inside(child)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """The texts that `_texts` has put together."""
    if isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield value
            if isinstance(value, ast.FormattedValue):
                yield from _inside(value.value) if _choice(value.value) else ()
                yield from _inside(value.format_spec) if value.format_spec else ()
                yield from [value.format_spec] if value.format_spec else ()
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            if _texts(side):
                yield side
                yield from _parts(side)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _branches(node: ast.expr) -> Iterator[ast.AST]:
    """What an expression may be: both sides of a condition or an `or`."""
    yield node
    if isinstance(node, ast.IfExp):
        yield from _branches(node.body)
        yield from _branches(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _branches(value)


def _choice(node: ast.AST) -> list[str]:
    """The texts of `"a" if … else "b"`, else nothing."""
    if not isinstance(node, ast.IfExp):
        return []
    sides = [_choice(side) or _texts(side) for side in (node.body, node.orelse)]
    return [text for side in sides for text in side] if all(sides) else []


def _texts(node: ast.AST) -> list[str]:
    """A constant, an f-string or a sum as texts with slots; several where a value chooses between constants."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    parts: list[list[str | None]] = []
    if isinstance(node, ast.JoinedStr):
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                parts.append(list(_choice(value.value)) or [None])
            else:
                parts.append(list(_texts(value)))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_texts(node.left), _texts(node.right)]
        if not any(sides):
            return []
        parts = [list(side) or [None] for side in sides]
    else:
        return []
    texts = []
    for chosen in product(*parts):
        number, text = 0, ""
        for part in chosen:
            if part is None:
                text, number = f"{text}{{{number}}}", number + 1
            else:
                inner = len(set(re.findall(r"\{\d+\}", part))) if isinstance(node, ast.BinOp) else 0
                text += re.sub(r"\{(\d+)\}", lambda m, n=number: f"{{{int(m[1]) + n}}}", part) if inner else part
                number += inner
        texts.append(text)
    return texts


def _pieces(text: str) -> list[str]:
    """The words between the tags of HTML, or behind Markdown's #; their slots counted anew."""
    text = text.lstrip("#").lstrip() if text.startswith("#") else text
    if not _TAG.search(text):
        return [text]
    text = re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)
    pieces = []
    for piece in _TAG.split(text):
        numbers = iter(range(100))
        joined = re.sub(r"\s+", " ", piece).strip()
        pieces.append(re.sub(r"\{\d+\}", lambda _, n=numbers: f"{{{next(n)}}}", joined))
    return pieces


def _is_text(text: str, said: bool, of_the_page: bool) -> bool:
    if not re.search(r"[A-Za-z]{2,}", SLOT.sub("", text)) or (_TECHNICAL.search(text) and not said):
        return of_the_page and bool(_WORD.fullmatch(text))
    return said or bool(_PROSE.search(text)) or (of_the_page and bool(_WORD.fullmatch(text)))


# JavaScript

_CALL = re.compile(r"""(?<![\w.])(?:trainLora\.|lora\.|core\.)?t\(""")
_STRING = re.compile(r""""((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`""")


def scripted(source: str) -> Iterator[tuple[int, str]]:
    """What `t` is given: the strings before its first comma, so both sides of a choice; and strings marked /* t */."""
    starts = [found.end() for found in _CALL.finditer(source)] + [m.end() for m in re.finditer(r"/\* t \*/ ?", source)]
    for start in sorted(starts):
        depth, at = 0, start
        while at < len(source):
            string = _STRING.match(source, at)
            if string:
                text = next(group for group in string.groups() if group is not None)
                if not source[:at].rstrip().endswith(("===", "!==", "[", "(")) or at == start:
                    yield source.count("\n", 0, at) + 1, json.loads(f'"{_plain(text)}"')
                at = string.end()
                if source.startswith("/* t */", max(0, start - 8)):
                    break
                continue
            letter = source[at]
            if letter in "([{":
                depth += 1
            elif letter in ")]}":
                depth -= 1
            if depth < 0 or (letter == "," and not depth):
                break
            at += 1


def _plain(text: str) -> str:
    return text.replace("\\'", "'").replace("\\`", "`").replace('\\"', '"').replace('"', '\\"')


# The catalogue


@lru_cache(maxsize=1)
def catalogue() -> dict[str, dict[str, str]]:
    """{"texts": …, "patterns": …} as it is on disk."""
    return json.loads(CATALOGUE.read_text(encoding="utf-8"))


def translated() -> dict[str, str]:
    """All entries of the catalogue."""
    return {**catalogue()["texts"], **catalogue()["patterns"]}


def missing() -> dict[str, str]:
    """{text: where it stands} of what has no translation."""
    known = translated()
    return {text: place for text, place in found().items() if not known.get(text)}


def stale() -> list[str]:
    """Entries that no source holds."""
    known = found()
    return [text for text in translated() if text not in known]


def write(entries: dict[str, str]) -> None:
    """The catalogue, in the order of the sources; what isn't in them goes."""
    ordered = {text: entries[text] for text in found() if entries.get(text)}
    parts = {"texts": {}, "patterns": {}}
    for text, translation in ordered.items():
        parts["patterns" if re.search(r"\{\d+\}", text) else "texts"][text] = translation
    CATALOGUE.parent.mkdir(exist_ok=True)
    CATALOGUE.write_text(json.dumps(parts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
    catalogue.cache_clear()


def main(arguments: list[str]) -> int:
    """See above."""
    verb = arguments[0] if arguments else "missing"
    if verb == "add":
        lines = [line for path in arguments[1:] for line in Path(path).read_text(encoding="utf-8").splitlines()]
        added = dict(line.split("\t")[:2] for line in lines if "\t" in line)
        write({**translated(), **{_opened(text): _opened(translation) for text, translation in added.items()}})
    elif verb == "missing":
        for text, place in missing().items():
            print(f"{_folded(text)}\t\t{place}")
    elif verb == "stale":
        print("\n".join(map(_folded, stale())))
    else:
        lack, old = missing(), stale()
        print(f"{len(found())} texts, {len(lack)} without a translation, {len(old)} stale entries")
        return int(bool(lack or old))
    return 0


def _folded(text: str) -> str:
    return text.replace("\n", "\\n")


def _opened(text: str) -> str:
    return text.replace("\\n", "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
