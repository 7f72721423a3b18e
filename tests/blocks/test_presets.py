from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import presets
from lora_train.blocks.presets import PresetFile
from lora_train.errors import UserError, UserErrors

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(
    st.characters(codec="utf-8", exclude_characters=":#,\ufeff", exclude_categories=("Cc", "Zl", "Zp")), min_size=1
).filter(lambda name: name == name.strip())
vectors = st.sampled_from([12, 17, 20, 26, 61]).flatmap(lambda n: st.tuples(*[finite] * n))
GP1 = "1.0,0.6,0.9,0.9,0.9,0.6,0.5,0.4,0.4,0.6,0.8,1.0,1.1,1.1,1.1,1.1,1.1"
GP2 = "0.3,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.2,0.2,0.2,0.2,0.2"
HINA4 = "0.25,0.25,0.25,0.25,0.75,0.5,0.75,0.75,0.8,0.8,0.8,0.85,0.85,0.85,1,1,1"


@given(st.dictionaries(names, vectors, max_size=3))
def test_round_trip(given_presets: presets.Presets) -> None:
    assert presets.parse_presets(presets.format_presets(given_presets)) == given_presets


@given(finite)
def test_numbers_round_trip(value: float) -> None:
    assert presets.parse_number(presets.format_number(value)) == value


def test_built_in_presets_are_the_seeds() -> None:
    seeds = presets.parse_presets(f"GP1:{GP1}\nGP2:{GP2}\nHINA4:{HINA4}\n")
    assert {name: presets.BUILTIN[name] for name in seeds} == seeds
    assert all(len(numbers) == 17 for numbers in presets.BUILTIN.values())
    assert presets.BUILTIN["MIDD"] == (1, 0, 0, 0, *[1] * 8, *[0] * 5)
    assert presets.BUILTIN["OUTALL"] == (1, *[0] * 7, *[1] * 9)
    assert presets.BUILTIN["GP1_MORE"][3:7] == (1, 1, 0.8, 0.6)


def test_comments_blank_lines_and_spaces() -> None:
    text = f"# what for\r\n\r\n  GP1 : {GP1.replace(',', ' , ')}  # style\r\nGP1:{GP1}\r\n"
    assert presets.parse_presets(text) == {"GP1": presets.BUILTIN["GP1"]}


def test_every_bad_line_is_named() -> None:
    text = f"A:{GP1}\nA:{GP2}\nB:1,2\n\nno colon\nC:{GP1.replace('0.4', 'R', 1)}\nD:{GP1},nan\n:{GP1}"
    with pytest.raises(UserErrors) as caught:
        presets.parse_presets(text, "p.txt")
    assert [str(error) for error in caught.value.errors] == [
        "p.txt, line 2: 'A' stands above with other numbers. Rename one of the two",
        "p.txt, line 3: 'B' has 2 numbers where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20)",
        "p.txt, line 5: this is not NAME:17 numbers. Begin the line with # if it is a comment",
        "p.txt, line 6: 'R', number 8, stands for a value that changes from picture to picture. "
        "Write a number: random and inherited weights can't be drawn again",
        "p.txt, line 7: 'nan', number 18, is not a number",
        "p.txt, line 8: this is not NAME:17 numbers. Begin the line with # if it is a comment",
    ]


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "1e999", "", "0x1", "１", "1,5"])
def test_what_is_no_number(text: str) -> None:
    assert presets.parse_number(text) is None


def test_sixteen_numbers() -> None:
    with pytest.raises(UserError, match=r"line 1: 'A' has 16 numbers where SD1\.5 and SD2 have 17"):
        presets.parse_presets("A:" + ",".join(["1"] * 16))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "lbwpresets.txt"
    with pytest.raises(UserError, match=r"lbwpresets\.txt: there is no such preset file"):
        presets.open_presets(path)
    path.write_bytes(b"\xef\xbb\xbfGP1:" + GP1.encode())  # Windows Notepad's byte order mark
    assert presets.open_presets(path).file.presets == {"GP1": presets.BUILTIN["GP1"]}
    path.write_bytes(b"\xb7\xe7:1")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        presets.open_presets(path)
    with pytest.raises(UserError, match="preset file can't be read"):
        presets.open_presets(tmp_path)


@pytest.mark.parametrize("name", ["", "a:b", "a#b", "a,b", " a", "a\nb", "a\x85b", "\ufeffa", "\ud800"])
def test_names_that_no_line_can_hold(name: str) -> None:
    with pytest.raises(UserError, match="can't be the name of a preset"):
        presets.format_presets({name: presets.BUILTIN["ALL"]})
    with pytest.raises(UserError, match="can't be the name of a preset"):
        PresetFile().put(name, presets.BUILTIN["ALL"])


# A file whose every line is kept

ONES = ",".join(["1"] * 17)
LBW_FILE = (
    "\ufeffNONE:" + ",".join(["0"] * 17) + "\r\n"
    "# my own\r\n"
    "\r\n"
    f"  GP1 : {GP1} \r\n"
    f"#OLD:{ONES}\n"
    f"TAIL:{ONES} # a comment to LoRA Block Weight\r"
    "XL:" + ",".join(["0.5"] * 12) + "\n"
    "FLUXALL:" + ",".join(["1"] * 61) + "\n"
    "RAND:" + ",".join(["R"] * 17) + "\n"
    "SHORT:1,2,3\n"
    "anything else: with a colon\n"
    "\t \x0c\n"
    "README lists BASE,IN00,IN01\n"
    f"GP1:{GP2}\n"
    f"last:{ONES}"
)
lines_of_files = st.sampled_from(
    [
        f"A:{ONES}",
        f" A : {ONES} ",
        f"B:{ONES},1",
        "B:1,R,1",
        f"C:{GP1}# c",
        "#",
        "",
        "x",
        "M00:MID",
        f"Ä,b:{GP1}",
        f":{ONES}",
    ]
)
ends = st.sampled_from(["\n", "\r\n", "\r", "\x0b", "\u2028", ""])
file_texts = st.lists(st.tuples(lines_of_files | st.text(max_size=20), ends)).map(
    lambda pairs: "".join(line + end for line, end in pairs)
)


@given(file_texts | st.text())
def test_every_text_is_kept(text: str) -> None:
    file = PresetFile.parse(text)
    assert file.text == text
    assert PresetFile.parse(file.text) == file


def test_a_file_as_people_have_it() -> None:
    file = PresetFile.parse(LBW_FILE, "p.txt")
    assert file.text == LBW_FILE
    assert list(file.presets) == ["NONE", "GP1", "XL", "FLUXALL", "last"]
    assert file.presets["GP1"] == presets.BUILTIN["GP2"], "the last counts, as for LoRA Block Weight"
    assert [str(problem) for problem in file.problems] == [
        "p.txt, line 9: 'R', number 1, stands for a value that changes from picture to picture. "
        "Write a number: random and inherited weights can't be drawn again",
        "p.txt, line 10: 'SHORT' has 3 numbers where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20)",
        "p.txt, line 15: 'GP1' stands above with other numbers. This line counts; rename one of them",
    ]


@pytest.mark.parametrize("name", ["XL", "RAND", "last", "NONE"])
def test_an_edit_changes_its_line_alone(name: str) -> None:
    file = PresetFile.parse(LBW_FILE)
    changed = file.put(name, presets.BUILTIN["HINA4"])
    before, after = LBW_FILE.splitlines(keepends=True), changed.text.splitlines(keepends=True)
    assert len(before) == len(after)
    [place] = [n for n, line in enumerate(after) if line != before[n]]
    ends = {"NONE": "\r\n", "last": ""}
    mark = "\ufeff" if name == "NONE" else ""
    assert after[place] == f"{mark}{name}:{presets.format_numbers(presets.BUILTIN['HINA4'])}{ends.get(name, chr(10))}"
    assert PresetFile.parse(changed.text).presets[name] == presets.BUILTIN["HINA4"]


def test_adding_renaming_removing() -> None:
    file = PresetFile.parse(LBW_FILE)
    added = file.put("NEW", presets.BUILTIN["INS"])
    assert added.text == LBW_FILE + "\r\nNEW:" + presets.format_numbers(presets.BUILTIN["INS"]) + "\r\n"
    renamed = file.rename("GP1", "style")
    assert renamed.text == LBW_FILE.replace("  GP1 :", "  style :").replace("GP1:", "style:")
    removed = file.remove("GP1")
    assert "GP1" not in removed.presets
    assert len(removed.lines) == len(file.lines) - 2
    assert PresetFile().put("A", (1.0,) * 12).text == "A:" + ",".join(["1"] * 12) + "\n"


def test_edits_that_cannot_be() -> None:
    file = PresetFile.parse(LBW_FILE, "p.txt")
    with pytest.raises(UserError, match=r"p\.txt: there is no preset 'gp1'\. Known are: "):
        file.remove("gp1")
    with pytest.raises(UserError, match="'XL' is taken"):
        file.rename("GP1", "XL")
    with pytest.raises(UserError, match="preset 'A' has 16 numbers"):
        file.put("A", (1.0,) * 16)
    assert file.rename("XL", "XL") == file


@given(file_texts, names, vectors)
def test_what_is_put_is_read(text: str, name: str, numbers: tuple[float, ...]) -> None:
    file = PresetFile.parse(text).put(name, numbers)
    again = PresetFile.parse(file.text)
    assert again.presets == file.presets
    assert again.presets[name] == numbers
    kept = {key: value for key, value in PresetFile.parse(text).presets.items() if key != name}
    assert {key: value for key, value in again.presets.items() if key != name} == kept
    assert PresetFile.parse(file.remove(name).text).presets == kept


@given(file_texts, names)
def test_a_renamed_preset_is_read_under_its_new_name(text: str, name: str) -> None:
    file = PresetFile.parse(text)
    for old in file.presets:
        if name not in [line.name for line in file.lines]:
            again = PresetFile.parse(file.rename(old, name).text)
            assert again.presets[name] == file.presets[old]
            assert old not in again.presets


def test_faulty_lines_say_why() -> None:
    file = PresetFile.parse("RAND:" + ",".join(["1"] * 16 + ["X+0.2"]), "p.txt")
    with pytest.raises(UserError) as caught:
        presets.look_up("RAND", file.presets, faults=file.faults)
    assert str(caught.value) == (
        "p.txt, line 1: preset 'RAND' can't be used: 'X+0.2', number 17, stands for a value that changes from picture "
        "to picture. Write a number: random and inherited weights can't be drawn again"
    )
    later = PresetFile.parse(f"A:{GP1}\nA:1,2,3\nB:1,2,3\nB:{GP1}")
    assert (list(later.presets), list(later.faults)) == (["B"], ["A"])
    with pytest.raises(UserError, match=r"preset 'ALL' has 17 numbers where SDXL has 12"):
        presets.look_up("ALL", presets.BUILTIN, "SDXL")


# Where presets are kept


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    scripts = tmp_path / "webui" / "extensions" / "renamed-lbw" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "lora_block_weight.py").touch()
    return tmp_path / "webui"


def test_the_extension_is_found_under_any_name(webui: Path) -> None:
    assert presets.find_block_weight(webui / "extensions") == webui / "extensions" / "renamed-lbw"
    assert presets.find_block_weight(webui) is None
    assert presets.find_block_weight(webui / "none") is None


def test_the_extensions_file_is_shared(webui: Path, tmp_path: Path) -> None:
    lbw = presets.find_block_weight(webui / "extensions")
    path = webui / "extensions" / "renamed-lbw" / "scripts" / "lbwpresets.txt"
    path.write_bytes(LBW_FILE.encode())
    store = presets.open_store(tmp_path / "own.txt", lbw)
    assert (store.path, store.file.text) == (path, LBW_FILE)
    saved = store.save(store.file.put("XL", (0.25,) * 12))
    expected = LBW_FILE.replace(",".join(["0.5"] * 12), ",".join(["0.25"] * 12))
    assert path.read_bytes() == expected.encode()
    saved.save(store.file)
    assert path.read_bytes() == LBW_FILE.encode()
    with pytest.raises(UserError, match="was changed by another program"):
        saved.save(saved.file)
    assert not (tmp_path / "own.txt").exists()


def test_a_file_that_the_extension_has_not_made_yet(webui: Path, tmp_path: Path) -> None:
    """It makes one with its defaults only where there is none: ours must hold them too."""
    lbw = presets.find_block_weight(webui / "extensions")
    store = presets.open_store(tmp_path / "own.txt", lbw)
    assert list(store.file.presets) == [*presets.LBW_DEFAULTS, "FLUXALL"]
    assert not store.path.exists()
    store.save(store.file.put("GP1", presets.BUILTIN["GP1"]))
    assert store.path == webui / "extensions" / "renamed-lbw" / "scripts" / "lbwpresets.txt"
    assert presets.open_presets(store.path).file.presets.keys() == {*presets.LBW_DEFAULTS, "FLUXALL", "GP1"}
    with pytest.raises(UserError, match="was changed by another program"):
        store.save(store.file)


def test_the_extensions_older_place(webui: Path, tmp_path: Path) -> None:
    (webui / "scripts").mkdir()
    (webui / "scripts" / "lbwpresets.txt").write_text(f"OLD:{GP1}", encoding="utf-8")
    store = presets.open_store(tmp_path / "own.txt", presets.find_block_weight(webui / "extensions"))
    assert list(store.file.presets) == ["OLD"]


def test_our_own_file(tmp_path: Path) -> None:
    store = presets.open_store(tmp_path / "below" / "own.txt")
    assert store.file.text == ""
    store = store.save(store.file.put("A", presets.BUILTIN["GP1"]))
    assert presets.open_store(tmp_path / "below" / "own.txt") == store
    (tmp_path / "gbk.txt").write_bytes("画风:1".encode("gbk"))
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        presets.open_store(tmp_path / "gbk.txt")
