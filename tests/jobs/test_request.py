"""What is asked for: filled in from the host, checked, kept on disk; and grids of files that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.errors import UserError, UserErrors
from lora_train.jobs import request as requests
from lora_train.jobs.manager import Manager
from lora_train.model.checkpoint import Family
from lora_train.settings import TrainSettings
from tests import support

from .fakes import FakeEngine, FakeHost, values


def test_vae_and_clip_skip_are_taken_over_where_they_mean_something(host: FakeHost) -> None:
    host.vae, host.clip_skip = host.folder / "fine.vae.pt", 2
    support.checkpoint(host.folder / "model.safetensors")
    request = requests.check(host, values(host), None)
    assert request.settings and (request.settings.vae, request.settings.clip_skip) == (str(host.vae), 2)
    assert request.taken_over == {"vae": str(host.vae), "clip_skip": 2} and request.checkpoint == "model [1234]"

    own = requests.check(host, values(host, vae="mine.pt", clip_skip=1), None)
    assert own.settings and own.settings.clip_skip == 1 and own.taken_over == {}

    support.checkpoint(host.folder / "model.safetensors", family=Family.SDXL)
    assert requests.check(host, values(host), None).taken_over == {"vae": str(host.vae)}

    other = support.checkpoint(host.folder / "other.safetensors")
    assert requests.check(host, values(host, pretrained_model_name_or_path=str(other)), None).taken_over == {}


def test_the_record_says_what_was_taken_over(manager: Manager, host: FakeHost) -> None:
    host.vae = host.folder / "fine.safetensors"
    manager.start(values(host))
    assert manager.wait(30)
    assert manager.status()["taken_over"] == {"vae": str(host.vae)}


def test_a_request_is_read_as_it_was_written(host: FakeHost, tmp_path: Path) -> None:
    grid = {"prompts": ["a cat", "a dog"], "weights": "0.5,1", "epochs": "band", "seed": 3}
    request = requests.check(host, values(host, learning_rate=3e-5), grid, share_gpu=True)
    request.save(tmp_path)
    assert requests.load(tmp_path) == request
    assert request.epochs == "band" and request.grid and request.grid.prompts == ("a cat", "a dog")
    with pytest.raises(UserError, match="can't be read"):
        requests.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value"), [("prompts", ["x"] * 21), ("prompts", [1]), ("epochs", "best"), ("nonsense", 1)]
)
def test_what_a_grid_cannot_be(host: FakeHost, field: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        requests.check(host, values(host), {field: value})
    assert caught.value.where == f"grid.{field}"


def test_prompts_come_from_the_captions(host: FakeHost) -> None:
    folder = host.folder / "pictures" / "1_cat"
    settings = TrainSettings(train_data_dir=str(host.folder / "pictures"))
    assert requests.prompts_of(settings) == ("a red cat",)
    (folder / "a.txt").write_text("hina, red dress\n", encoding="utf-8")
    (folder / "b.txt").write_text("hina, blue dress\n", encoding="utf-8")
    assert requests.prompts_of(settings) == ("hina, red dress", "hina")
    for caption in folder.glob("*.txt"):
        caption.unlink()
    assert requests.prompts_of(settings) == ("cat",)


def test_a_grid_can_have_the_candidate_epochs_alone(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host, "steps=4"), {"epochs": "band", "weights": "1", "prompts": "one\ntwo"})
    assert manager.wait(30)
    assert host.drawn and [Path(lora).stem for lora in host.drawn.loras] == ["cat-000001", "cat-000002"]
    status = manager.status()
    assert (status["grid"]["done"], status["grid"]["total"]) == (4, 4)
    assert [Path(page).name for page in status["grid"]["pages"]] == ["grid.png", "grid-2.png"]
    assert all(Path(page).is_file() for page in status["grid"]["pages"])


def test_a_grid_of_files_that_are_there(manager: Manager, host: FakeHost) -> None:
    folder = host.lora_dir() / "old"
    folder.mkdir(parents=True)
    for n in (1, 2, 3):
        (folder / f"dog-{n:06d}.safetensors").write_bytes(b"")
    job = manager.start_grid({"folder": str(folder), "name": "dog", "weights": "0.5,1", "epochs": "2-3"})
    assert manager.wait(30)
    status = manager.status(job)
    assert (status["kind"], status["name"], status["state"]) == ("grid", "dog", "done")
    assert status["grid"]["total"] == 4 and host.calls == ["refresh", "draw"]
    assert host.drawn and host.drawn.prompts == ("dog",)

    host.failure = UserError("the WebUI has no X/Y/Z plot")
    failed = manager.start_grid({"loras": [str(folder / "dog-000001.safetensors")], "prompts": "a dog"})
    assert manager.wait(30)
    assert manager.status(failed)["state"] == "failed" and "X/Y/Z" in manager.status(failed)["error"]
    assert manager.status(failed)["resumable"]


def test_a_grid_needs_no_packages_of_ours(host: FakeHost) -> None:
    class Missing(FakeEngine):
        def environment(self) -> dict[str, str]:
            raise UserError("the packages for training are not installed")

    lora = host.folder / "x.safetensors"
    lora.write_bytes(b"")
    manager = Manager(host, Missing())
    job = manager.start_grid({"loras": [str(lora)], "weights": "1"})
    assert manager.wait(30)
    assert manager.status(job)["state"] == "done"
    with pytest.raises(UserError, match="not installed"):
        manager.start(values(host))


def test_a_grid_stays_inside_the_lora_folder_of_an_open_host(manager: Manager, host: FakeHost) -> None:
    outside = host.folder / "x.safetensors"
    outside.write_bytes(b"")
    manager.start_grid({"loras": [str(outside)]})
    host.open_to_others = True
    for given in ({"loras": [str(outside)]}, {"folder": str(host.folder), "name": "x"}):
        with pytest.raises(UserError, match="outside the LoRA folder"):
            manager.start_grid(given)
    with pytest.raises(UserError, match="no such LoRA file"):
        manager.start_grid({"loras": [str(host.lora_dir() / "none.safetensors")]})
    with pytest.raises(UserError, match="no LoRA files are named"):
        manager.start_grid({})


def test_the_hosts_model_may_stay(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host), share_gpu=True)
    assert manager.wait(30)
    assert host.calls == ["refresh"]


def test_an_open_host_reads_pictures_of_its_own_folders_only(manager: Manager, host: FakeHost) -> None:
    host.open_to_others = True
    secret = host.folder / "secret"
    secret.mkdir()
    with pytest.raises(UserErrors) as caught:
        manager.start({"train_data_dir": str(secret), "output_name": "cat", "reg_data_dir": str(secret)})
    assert {error.where for error in caught.value.errors} == {"train_data_dir", "reg_data_dir"}
    with pytest.raises(UserError, match="own folders"):
        manager.start(values(host, train_data_dir=str(host.folder / "pictures" / ".." / "secret")))
    manager.start(values(host))
    assert manager.wait(30)
