"""Thumbnails are of a project's pictures alone, upright, made once and anew when the picture changes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lora_train.errors import UserError
from lora_train.studio import project as projects
from lora_train.studio import thumbnails

from .drawn import put, scene, tree


@pytest.fixture
def project(tmp_path) -> projects.Project:
    made = projects.make(tmp_path / "p").project
    assert made is not None
    for n in range(5):
        put(made.image / "10_a" / f"{n}.png", scene(n, 600, 300))
    put(made.reg / "1_a" / "r.png", scene(9))
    return made


def test_pages_list_every_picture_once(project):
    first, second = (thumbnails.page(project, offset, 4) for offset in (0, 4))
    assert (first.total, len(first.pictures), len(second.pictures)) == (6, 4, 2)
    assert len({p.id for p in (*first.pictures, *second.pictures)}) == 6
    assert [p.is_reg for p in second.pictures] == [False, True]
    assert thumbnails.page(project, 0, 100, "1_a").total == 1
    assert thumbnails.page(project, 99, 10**9).pictures == ()
    assert str(project.root) not in str([p.as_dict() for p in first.pictures])


def test_a_thumbnail_is_small_and_made_once(project):
    picture = thumbnails.page(project).pictures[0]
    path = thumbnails.thumbnail(project, picture.id, 128)
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (128, 64), "RGB")
    made = path.stat().st_mtime_ns
    assert thumbnails.thumbnail(project, picture.id, 128) == path and path.stat().st_mtime_ns == made


def test_it_is_upright_with_transparency_on_white(project):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = put(project.image / "10_a" / "turned.jpg", scene(1, 600, 300), exif=exif)
    clear = put(project.image / "10_a" / "clear.png", Image.new("RGBA", (50, 50), (255, 0, 0, 0)))
    with Image.open(thumbnails.thumbnail(project, thumbnails.picture_id(turned), 128)) as image:
        assert image.size == (64, 128)
    with Image.open(thumbnails.thumbnail(project, thumbnails.picture_id(clear), 128)) as image:
        assert np.asarray(image).min() > 250


def test_a_changed_picture_gets_a_new_one_and_the_old_one_goes(project):
    picture = thumbnails.page(project).pictures[0]
    old = thumbnails.thumbnail(project, picture.id)
    put(picture.path, scene(7, 300, 600))
    os.utime(picture.path, ns=(5, 5))
    new = thumbnails.thumbnail(project, picture.id)
    assert new != old and not old.exists()
    with Image.open(new) as image:
        assert image.size == (128, 256)


def test_nothing_but_the_projects_pictures_is_served(project, tmp_path):
    secret = put(tmp_path / "secret.png")
    (project.image / "10_a" / "0.txt").write_text("caption")
    wrong = ["", "../secret.png", str(secret), thumbnails.picture_id(secret), "0" * 16]
    wrong.append(thumbnails.picture_id(project.image / "10_a" / "0.txt"))
    for picture_id in wrong:
        with pytest.raises(UserError, match="no such picture"):
            thumbnails.thumbnail(project, picture_id)
    with pytest.raises(UserError, match="no size"):
        thumbnails.thumbnail(project, thumbnails.page(project).pictures[0].id, 257)


def test_pictures_that_come_go_or_break_are_noticed(project):
    picture = thumbnails.page(project).pictures[0]
    new = put(project.image / "10_b" / "new.png")
    assert thumbnails.find(project, thumbnails.picture_id(new)) == new
    picture.path.unlink()
    with pytest.raises(UserError, match="no such picture"):
        thumbnails.thumbnail(project, picture.id)
    new.write_bytes(new.read_bytes()[:100])
    with pytest.raises(UserError, match="broken"):
        thumbnails.thumbnail(project, thumbnails.picture_id(new))


def test_many_may_ask_at_once(project):
    ids = [p.id for p in thumbnails.page(project).pictures] * 6
    before = {name: data for name, data in tree(project.root).items() if ".studio" not in name}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda picture: thumbnails.thumbnail(project, picture), ids))
    for path in set(made):
        with Image.open(path) as image:
            image.load()
    assert len(set(made)) == 6
    assert not list((project.work / "thumbnails").rglob("*.tmp"))
    assert {name: data for name, data in tree(project.root).items() if ".studio" not in name} == before
