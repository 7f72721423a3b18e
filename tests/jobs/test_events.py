"""A child whose starter is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
from lora_train.events import event, json_lines
emit = json_lines()
emit(event("stage", text="first"))
sys.stdin.read()
for n in range(3):
    emit(event("progress", step=n))
    print("a library's words")
    print("a library's words", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text("saved")
"""


def test_a_child_that_nobody_hears_goes_on_to_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", CODE, str(saved)], **pipes) as child:
        assert child.stdin and child.stdout and child.stderr
        assert b"first" in child.stdout.readline()
        child.stdout.close()
        child.stderr.close()
        child.stdin.close()
        assert child.wait(30) == 0
    assert saved.read_text() == "saved"
