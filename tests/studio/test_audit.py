"""The audit on sets with planted faults: all found, none invented."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lora_train.studio import edits
from lora_train.studio.audit import Finding, audit
from lora_train.studio.captions import apply, open_table, preview

PLACES = ["indoors", "outdoors", "beach", "street"]


def write(folder: Path, name: str, caption: str | bytes | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    if caption is not None:
        (folder / f"{name}.txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())


def plain(number: int) -> str:
    """A caption without a fault: each of its tags is on several."""
    return f"hina, 1girl, solo, smile, {PLACES[number % 4]}"


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    for number in range(20):
        write(tmp_path / "10_hina woman", f"{number:02}", plain(number))
    return tmp_path


def test_nothing_is_found_where_nothing_is_wrong(clean: Path) -> None:
    assert audit(open_table(clean)) == []
    assert audit(open_table(clean), trigger="HINA") == []


def brief(finding: Finding) -> tuple[str, tuple[str, ...], str]:
    title = finding.edit.title() if finding.edit else ""
    return finding.kind, tuple(row.picture.stem for row in finding.rows), title


FAULTS: dict[str, tuple[str | bytes | None, list[tuple[str, tuple[str, ...], str]]]] = {
    "no file": (None, [("missing", ("00",), "")]),
    "empty": ("", [("empty", ("00",), "")]),
    "only commas": (" , ,\n", [("empty", ("00",), "")]),
    "no trigger": ("1girl, solo, smile, beach", [("trigger", ("00",), "add hina first")]),
    "trigger later": ("1girl, hina, solo, beach", [("trigger", ("00",), "reorder: hina to the start")]),
    "a boy": (
        "hina, 1girl, 1boy, smile, beach",
        [("contradiction", ("00",), "remove 1boy"), ("rare", ("00",), "remove 1boy")],
    ),
    "a boy in place of the girl": (
        "hina, 1boy, solo, smile, beach",
        [("contradiction", ("00",), "replace 1boy by 1girl"), ("rare", ("00",), "remove 1boy")],
    ),
    "a man in a sentence": ("hina, a photo of a man with a hat", [("contradiction", ("00",), "")]),
    "several": (
        "hina, 2girls, smile, beach",
        [("contradiction", ("00",), "replace 2girls by 1girl"), ("rare", ("00",), "remove 2girls")],
    ),
    "rare": ("hina, 1girl, solo, smile, beach, umbrela", [("rare", ("00",), "remove umbrela")]),
    "underscore": (
        "hina, 1girl, Solo, smile, beach",
        [("spelling", ("00",), "replace Solo by solo")],
    ),
    "twice": ("hina, 1girl, solo, smile, smile, beach", [("repeated", ("00",), "remove repeated tags")]),
    "GBK": (
        "hina, 1girl, solo, smile, beach, 这是一个微笑的女孩在 海边 看 天空".encode("gbk"),
        [("encoding", ("00",), "save as UTF-8")],
    ),
    "Shift-JIS": (
        "hina, 1girl, solo, smile, beach, 少女が 笑って 海辺で 空を見ている".encode("shift_jis"),
        [("encoding", ("00",), "save as UTF-8")],
    ),
    "cp1252": (
        "hina, 1girl, solo, smile, beach, café à la plage déserte".encode("cp1252"),
        [("encoding", ("00",), "save as UTF-8")],
    ),
    "BOM": (b"\xef\xbb\xbf" + plain(0).encode(), [("encoding", ("00",), "save as UTF-8")]),
    "UTF-16": (plain(0).encode("utf-16"), [("encoding", ("00",), "save as UTF-8")]),
    "NUL": (plain(0).encode() + b"\0", [("encoding", ("00",), "save as UTF-8")]),
    "unreadable": (b"\xff\xfea", [("unreadable", ("00",), "")]),
    "two lines": (plain(0) + "\nhina, 1girl, smile", [("lines", ("00",), "")]),
    "first line empty": ("\n" + plain(0), [("lines", ("00",), ""), ("trigger", ("00",), "add hina first")]),
    "a LoRA": (plain(0) + ", <lora:x:1>", [("syntax", ("00",), "replace <(?:lora|lyco|hypernet):[^>]*> by nothing")]),
    "too long": (
        "hina, 1girl, " + ", ".join(["solo smile beach indoors outdoors street"] * 15),
        [("long", ("00",), ""), ("repeated", ("00",), "remove repeated tags")],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_is_found_and_nothing_else(clean: Path, fault: str) -> None:
    caption, expected = FAULTS[fault]
    picture = clean / "10_hina woman" / "00"
    picture.with_suffix(".txt").unlink()
    write(picture.parent, "00", caption)
    assert sorted(map(brief, audit(open_table(clean)))) == sorted(expected)


def test_all_faults_together(clean: Path) -> None:
    """Each in a picture of its own beside the clean ones."""
    for number, (caption, _) in enumerate(FAULTS.values()):
        for more in range(3):  # so that it stays a minority
            write(clean / "10_hina woman", f"clean{number}{more}", plain(number + more))
        write(clean / "10_hina woman", f"x{number:02}", caption)
    found = audit(open_table(clean))
    told = {(finding.kind, row.picture.stem) for finding in found for row in finding.rows}
    names = {name: f"x{number:02}" for number, name in enumerate(FAULTS)}
    boys = {names["a boy"], names["a boy in place of the girl"]}
    for name, (_, expected) in FAULTS.items():
        for kind, _, _ in expected:
            if kind != "rare" or names[name] not in boys:  # there are two boys now
                assert (kind, names[name]) in told, name
    assert {stem for _, stem in told} == set(names.values())


def test_the_seeds_twelve_photographs_of_a_woman_tagged_as_a_boy(tmp_path: Path) -> None:
    for number in range(98):
        more = ", 1boy" if number < 12 else ""
        write(tmp_path / "100_hina", f"{number:03}", plain(number) + more)
    found = [finding for finding in audit(open_table(tmp_path)) if finding.kind == "contradiction"]
    assert len(found) == 1
    assert len(found[0].rows) == 12
    assert "12 of 98 pictures" in found[0].text
    assert found[0].tags == ("1boy",)


def test_a_set_of_couples_is_no_contradiction(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / "10_style", f"{number:02}", f"1girl, 1boy, {PLACES[number % 4]}")
    assert audit(open_table(tmp_path)) == []


@pytest.mark.parametrize(
    ("caption", "clash"),
    [
        ("solo, 2girls", ("solo", "2girls")),
        ("1girl, solo, 1boy", ("solo", "1boy")),
        ("1girl, multiple_girls", ("multiple_girls", "1girl")),
        ("no humans, 1girl", ("no humans", "1girl")),
        ("1girl, 1boy, couple", None),
        ("2girls, 1boy", None),
        ("solo, 1girl\n2girls", None),
    ],
)
def test_what_cannot_both_be_true(tmp_path: Path, caption: str, clash: tuple[str, str] | None) -> None:
    write(tmp_path / "1_x", "a", caption)
    found = [finding.tags for finding in audit(open_table(tmp_path)) if finding.kind == "contradiction"]
    assert found == ([clash] if clash else [])


def test_long_captions_by_what_reads_them(tmp_path: Path) -> None:
    for name, words in (("a", 70), ("b", 80), ("c", 160), ("d", 230)):
        write(tmp_path / "1_x", name, " ".join(["cat"] * words))
    found = [f for f in audit(open_table(tmp_path)) if f.kind == "long"]
    assert [(tuple(r.picture.stem for r in f.rows), f.text.split(": ")[-1]) for f in found] == [
        (("b",), "max_token_length 150 reads them whole"),
        (("c",), "max_token_length 225 reads them whole"),
        (("d",), "shorten them"),
    ]
    assert "up to 80" in found[0].text
    longer = [f for f in audit(open_table(tmp_path), max_token_length=225) if f.kind == "long"]
    assert [len(f.rows) for f in longer] == [1]


def test_shared_and_orphaned_captions(tmp_path: Path) -> None:
    write(tmp_path / "1_x", "a", "cat")
    Image.new("RGB", (8, 8)).save(tmp_path / "1_x" / "a.jpg")
    (tmp_path / "1_x" / "gone.txt").write_text("dog", encoding="utf-8")
    kinds = {finding.kind: finding.text for finding in audit(open_table(tmp_path))}
    assert set(kinds) == {"shared", "orphan"}
    assert "gone.txt" in kinds["orphan"]


def test_regularisation_needs_no_captions(clean: Path) -> None:
    write(clean / "reg" / "5_hina woman", "r", None)
    assert audit(open_table(clean)) == []


def test_the_trigger_is_named_where_the_folder_does_not_tell_it(clean: Path) -> None:
    found = audit(open_table(clean), trigger="mira_v2")
    assert [(f.kind, len(f.rows), f.edit.title() if f.edit else "") for f in found] == [
        ("trigger", 20, "add mira_v2 first")
    ]
    write(clean / "10_hina woman", "sentence", "a photo of hina on the beach")
    assert [f.kind for f in audit(open_table(clean))] == []


def test_a_folder_of_another_trigger_is_a_hint(clean: Path) -> None:
    for number in range(5):
        write(clean / "5_dress", f"{number}", "dress, indoors")
    found = audit(open_table(clean), trigger="hina")
    assert [(f.kind, len(f.rows), f.hint) for f in found] == [("trigger", 5, True)]
    write(clean / "5_dress", "0", "dress, hina, indoors")
    found = audit(open_table(clean), trigger="hina")
    assert [(f.kind, len(f.rows), f.hint) for f in found] == [("trigger", 4, False), ("trigger", 1, True)]


def test_what_a_finding_proposes_mends_it(clean: Path) -> None:
    folder = clean / "10_hina woman"
    write(folder, "00", "Hina, 1girl, SOLO, smile, smile, beach".encode("utf-16"))
    write(folder, "01", "1girl, hina, solo, 1boy, beach, <lora:x:1>")
    write(folder, "02", "1girl, solo, beach")
    for _ in range(12):
        table = open_table(clean)
        found = [finding for finding in audit(table) if finding.edit]
        if not found:
            break
        as_sent = found[0].as_dict()["edit"]
        assert apply(table, preview(table, edits.from_dict(as_sent), found[0].rows)).written
    assert audit(open_table(clean)) == []


def test_a_sentence_is_one_with_underscores_too(clean: Path) -> None:
    write(clean / "10_hina woman", "20", "hina, 1girl, solo, smile, a_man_with_a_hat, beach")
    (finding,) = [one for one in audit(open_table(clean)) if one.kind == "contradiction"]
    assert "a boy or man (a_man_with_a_hat) for 1 of 21 pictures of 10_hina woman" in finding.text
