"""Memory that is freed and used again, in a process of its own since the change stays."""

import platform
import subprocess
import sys

import pytest

from lora_train.paths import ROOT

CODE = """
import resource, sys
from lora_train.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
_ = b"x" * 2**24
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    _ = b"x" * 2**24
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own switch")
def test_the_kernel_is_asked_for_memory_once():
    def faults(how):
        command = [sys.executable, "-c", CODE, how]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("as it is") / 5
