"""Our host inside a real WebUI, A1111 or Forge: the contract of every host, and what only a real one can tell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lora_train.model.checkpoint import Family
from tests.host import contract
from tests.webui import host_calls, narrow
from tests.webui.server import FLAGS

FOLDER = os.environ.get("TRAIN_LORA_WEBUI", "")
PYTHON = os.environ.get("TRAIN_LORA_WEBUI_PYTHON", "")
OURS = Path(__file__).resolve().parent.parent.parent
CALLS = [
    *(name.removeprefix("call_") for name in vars(host_calls) if name.startswith("call_")),
    *(f"contract: {check.__name__}" for check in contract.CHECKS),
]

pytestmark = [
    pytest.mark.webui,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (FOLDER and PYTHON), reason="TRAIN_LORA_WEBUI and TRAIN_LORA_WEBUI_PYTHON name no WebUI"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One process for all, with a folder of models of its own."""
    out = tmp_path_factory.mktemp("host")
    checkpoint = narrow.install(out, Family.SD15)
    kind = ("--always-cpu",) if (Path(FOLDER) / "modules_forge").is_dir() else ()
    flags = (*FLAGS, *kind, "--models-dir", str(out / "models"), "--ckpt-dir", str(out), "--ckpt", str(checkpoint))
    own = ("--disable-extra-extensions", "--ui-settings-file", str(out / "config.json"))
    command = [PYTHON, host_calls.__file__, str(out), str(OURS), *flags, *own]
    blips_words(out / "hub" / "models--bert-base-uncased")
    hub = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_CACHE": str(out / "hub")}
    environment = {**os.environ, **hub, "TRANSFORMERS_CACHE": str(out / "hub"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, encoding="utf-8", errors="replace", timeout=900
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def blips_words(folder: Path) -> None:
    """A vocabulary of BERT's size, where Hugging Face's cache would have it."""
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 104: "a", 105: "picture", 106: "of"}
    snapshot = folder / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0", encoding="utf-8")
    words = "".join(f"{special.get(number, f'word{number}')}\n" for number in range(30522))
    (snapshot / "vocab.txt").write_text(words, encoding="utf-8")
    (snapshot / "tokenizer_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")


@pytest.mark.parametrize("call", CALLS)
def test_in_the_webui(report: dict[str, str], call: str) -> None:
    assert report[call] == "", report[call]
