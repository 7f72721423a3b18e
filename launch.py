"""Train LoRA on a bare machine: makes .venv beside this file, installs what pyproject.toml declares, then starts.

    python3 launch.py demo       train a LoRA in a minute or so and look at it
    python3 launch.py ui         the tab, in a browser
    python3 launch.py test       the tests (more arguments go to pytest)
    python3 launch.py COMMAND    any command of `python -m lora_train`; COMMAND --help explains it

Python 3.10 to 3.13, nothing else. The next start does no work. This file keeps to what Python 3.6 can parse, so that an
older Python is told what is wrong; its annotations are quoted for that reason.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST, NEWEST = (3, 10), (3, 13)

PYTORCH_INDEX = "https://download.pytorch.org/whl/"
CUDA = "cu130"
GIB = 2**30

TORCH_VERSION = "from importlib import metadata as m; print(*(d.version for d in m.distributions(name='torch')))"

READ_DECLARED = """
import sys
try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
wanted = project["dependencies"] + [line for extra in sys.argv[2:] for line in project["optional-dependencies"][extra]]
print(*wanted, sep="\\n")
"""

# For pip, a package half written by an interrupted installation is installed: forget it, so that pip writes it again.
FORGET_HALF_INSTALLED = """
import shutil, sys
from importlib import metadata
from pathlib import Path
for package in metadata.distributions(path=[p for p in sys.path if p.endswith("site-packages")]):
    record = [(Path(package.locate_file(f)), f.size) for f in package.files or ()]
    if not record or any(not p.exists() or (size is not None and p.stat().st_size != size) for p, size in record):
        print("Installing again, as it is incomplete:", package._path.name)
        shutil.rmtree(package._path, ignore_errors=True)
"""


class Refusal(Exception):
    """Why this can't start: one sentence that says what to do."""


def main(arguments: "list[str]") -> int:
    """Prepare, then hand over; 2 where the user has to do something first."""
    try:
        check_python(sys.version_info[:2], sys.platform, platform.machine())
        if not arguments or arguments[0] in ("-h", "--help"):
            say(__doc__)
            return 0
        prepare("test" if arguments[0] == "test" else "")
        return hand_over(arguments)
    except Refusal as refusal:
        say("launch.py: " + str(refusal))
        return 2
    except KeyboardInterrupt:
        say("launch.py: stopped; the next start goes on from here.")
        return 130


def say(text: str) -> None:
    """A line for the user, whatever the terminal's encoding."""
    encoding = sys.stderr.encoding or "ascii"
    sys.stderr.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stderr.flush()


def check_python(version: "tuple[int, int]", system: str, machine: str) -> None:
    """PyTorch exists for these only."""
    supported = "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
    if not OLDEST <= version <= NEWEST:
        raise Refusal(
            "Python {}.{} is not supported: install Python {} and start with that one, "
            "for example python3.12 launch.py.".format(*version, supported)
        )
    if sys.maxsize < 2**32:
        raise Refusal("this Python is a 32-bit one: install a 64-bit Python {} and start again.".format(supported))
    if system == "darwin" and machine == "x86_64":
        raise Refusal("PyTorch is no longer made for Macs with Intel processors: use another machine.")


def prepare(extra: str) -> None:
    """Make .venv hold what is declared; the stamp, written last, says that it does."""
    wanted = fingerprint()
    found = [stamp.read_text("utf-8") for stamp in stamps(extra) if stamp.is_file()]
    if venv_python().exists() and wanted in found:
        return
    sys.path.insert(0, str(ROOT))
    from lora_train.errors import UserError
    from lora_train.files import require_space, write_text

    try:
        require_space(ROOT, (8 if wants_cuda() else 3) * GIB if not VENV.exists() else 0)
        make_venv()
        install(extra)
        write_text(stamps(extra)[0], wanted)
    except subprocess.CalledProcessError:
        raise Refusal("{} is broken: delete it, then start again.".format(VENV)) from None
    except UserError as error:
        raise Refusal(str(error) + ".") from None
    except OSError as error:
        why = error.strerror or error
        raise Refusal("{}: {}; free some space or check the folder's permissions.".format(ROOT, why)) from None


def stamps(extra: str) -> "list[Path]":
    """The files that say what .venv holds, any of which will do: the tests' packages include the others."""
    return [VENV / "installed-{}.txt".format(name) for name in ([extra] if extra else ["runtime", "test"])]


def fingerprint() -> str:
    """Of all that decides which packages .venv holds."""
    digest = hashlib.sha256("{}.{}".format(*sys.version_info[:2]).encode())
    for file in (ROOT / "pyproject.toml", CONSTRAINTS):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def venv_python() -> Path:
    """The Python in .venv."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv() -> None:
    """Make .venv, or make it anew where it is half made, broken or another Python's."""
    from lora_train.jobs.packages import clean_environment, explain

    if venv_works():
        return
    say("Making {} (once).".format(VENV))
    inside = Path(sys.prefix) == VENV
    python = getattr(sys, "_base_executable", sys.executable) if inside else sys.executable
    made = subprocess.run(
        [python, "-m", "venv", "--clear", str(VENV)],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = made.stdout.decode("utf-8", "replace")
    if "ensurepip is not" in output or "No module named venv" in output or "No module named ensurepip" in output:
        raise Refusal(
            "this Python can't make virtual environments: on Debian and Ubuntu run "
            "`sudo apt install python{}.{}-venv`, then start again.".format(*sys.version_info[:2])
        )
    if made.returncode:
        say(output)
        raise explain(output, "python -m venv failed with code {}".format(made.returncode))


def venv_works() -> bool:
    """Whether .venv's Python is this version, and has pip."""
    script = "import pip, sys; sys.exit(sys.version_info[:2] != {!r})".format(tuple(sys.version_info[:2]))
    try:
        in_venv(script)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def install(extra: str) -> None:
    """PyTorch first, as there are several builds of it; then the rest."""
    from lora_train.jobs.packages import pip_command, run_pip

    pip = pip_command(venv_python())
    say(in_venv(FORGET_HALF_INSTALLED).rstrip() or "Installing packages (once).")
    constrained = ["--constraint=" + str(CONSTRAINTS)]
    install_torch(pip, constrained)
    extras = [extra] if extra else []
    declared = in_venv(READ_DECLARED, str(ROOT / "pyproject.toml"), *extras).splitlines()
    run_pip(pip, [*constrained, *declared])


def install_torch(pip: "list[str]", constrained: "list[str]") -> None:
    """The build that fits: Linux without an NVIDIA GPU is spared gigabytes; Windows with one needs PyTorch's index."""
    from lora_train.errors import UserError
    from lora_train.jobs.packages import run_pip

    torch = next(line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("torch=="))
    if in_venv(TORCH_VERSION).split("+")[0].strip() == torch.split("==")[1]:
        return
    patience = ["--retries=1", "--timeout=20"]
    for build, index in torch_builds(sys.platform, wants_cuda()):
        try:
            run_pip(pip, [*patience, *constrained, torch + "+" + build, *index], say_progress)
            return
        except UserError as error:
            if not index and "pip finds no" not in str(error):
                raise
    if sys.platform == "linux" and not wants_cuda():
        say("No CPU build of PyTorch is to be had here: installing the one for NVIDIA GPUs, which is large.")
    if sys.platform == "win32" and wants_cuda():
        say("No CUDA build of PyTorch is to be had here: installing the one without, which can't use your GPU.")
    run_pip(pip, [*constrained, torch])


def say_progress(line: str) -> None:
    """Only pip's progress: its alarm about a build that isn't there is none, as the next one will do."""
    if line.strip().startswith(("Collecting", "Processing", "Downloading", "Installing", "Successfully")):
        say(line)


def torch_builds(system: str, cuda: bool) -> "list[tuple[str, list[str]]]":
    """Which builds to try before the ordinary one, with pip's options: the configured indexes, then PyTorch's own."""
    build = {("linux", False): "cpu", ("win32", True): CUDA}.get((system, cuda))
    return [(build, []), (build, ["--extra-index-url=" + PYTORCH_INDEX + build])] if build else []


def wants_cuda() -> bool:
    """Whether this machine has an NVIDIA GPU."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia").exists()


def in_venv(script: str, *arguments: str) -> str:
    """What `script` prints when .venv's Python runs it."""
    run = subprocess.run([str(venv_python()), "-I", "-c", script, *arguments], stdout=subprocess.PIPE, check=True)
    return run.stdout.decode("utf-8", "replace")


def hand_over(arguments: "list[str]") -> int:
    """Become .venv's Python; on Windows, which can't do that, wait for it."""
    leads_astray = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__")
    environment = {name: value for name, value in os.environ.items() if name not in leads_astray}
    environment.update(PYTHONPATH=str(ROOT), PYTHONUTF8="1")
    command = [str(venv_python()), "-m", "lora_train", *arguments]
    if arguments[0] == "test":
        command[2:] = ["pytest", *arguments[1:]]
        os.chdir(str(ROOT))
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(command[0], command, environment)
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                continue
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
