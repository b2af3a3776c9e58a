"""A source that has grown: new shards, and everything before as it was."""

import json
import shutil

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.dataset import open_dataset
from soraxla.core.errors import UserError
from soraxla.media.write import write_video
from tests.data_pipelines.test_prepare import (
    Killed,
    content,
    encode_video,
    index,
    noise,
    run,
)
from tests.data_pipelines.test_prepare import content as files_of

FIRST, LATER = ("c.mp4", "m.png", "x.png"), ("a.png", "d.mp4", "z.png")


def add(folder, names, seed=0):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        frames = 5 if name.endswith("mp4") else 1
        write_video(folder / name, noise(frames, 32, 48, seed=seed + i), 16)
        (folder / name).with_suffix(".txt").write_text(f"the caption of {name}")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A source of three files, and a dataset of it."""
    root = tmp_path_factory.mktemp("append")
    add(root / "media", FIRST)
    run(root / "media", root / "out")
    return root


@pytest.fixture
def grown(before, tmp_path):
    """The source with three more files, of names between the others'."""
    shutil.copytree(before, tmp_path, dirs_exist_ok=True)
    add(tmp_path / "media", LATER, seed=9)
    return tmp_path


def test_new_files_are_shards_after_the_others_which_stay(grown, before):
    out = grown / "out"
    card = run(grown / "media", out)
    was, now = files_of(before / "out"), content(out)
    old = json.loads(was["dataset.json"])
    for name in was.keys() - {"dataset.json", "index.parquet", "skipped.jsonl"}:
        assert now[name] == was[name], name
    rows = index(out)
    assert rows[:3] == index(before / "out")
    assert [row["source"] for row in rows] == [*FIRST, *LATER]
    assert card["samples"] == 6 and card["fingerprint"] != old["fingerprint"]
    kept = {"fingerprint": old["fingerprint"], "samples": 3}
    assert card["earlier"] == [kept]
    assert card["tokens"] == sum(r["t"] * r["h"] * r["w"] // 4 for r in rows)
    dataset = open_dataset(out)
    for i in range(6):
        dataset.read(i)
    assert run(grown / "media", out) == card and content(out) == now
    add(grown / "media", ["b.png"], seed=20)
    again = run(grown / "media", out)
    assert again["earlier"] == [
        kept,
        {**kept, "samples": 6, "fingerprint": card["fingerprint"]},
    ]
    assert index(out)[:6] == rows


@pytest.mark.parametrize("worker", [None, (0, 2)])
def test_a_shared_or_interrupted_addition_ends_with_the_same_bytes(grown, worker):
    whole, out = grown / "whole", grown / "out"
    shutil.copytree(out, whole)
    run(grown / "media", whole)
    if worker:
        assert run(grown / "media", out, worker=worker) is None
    else:
        with pytest.raises(Killed):
            run(grown / "media", out, encode_video=killed)
    assert len(open_dataset(out)) == 3  # as before, until all is there
    run(grown / "media", out)
    assert content(out) == content(whole)


def killed(frames):
    if (encode_video(frames).sum() * 1000) % 7 >= 0 and len(frames) == 5:
        raise Killed
    return encode_video(frames)


def test_rows_of_an_unfinished_addition_do_not_count(grown, monkeypatch):
    """The process ends between the index and the card."""
    out, write = grown / "out", records.write_json

    def dies(path, value):
        if path.name == records.CARD:
            raise Killed
        write(path, value)

    monkeypatch.setattr(records, "write_json", dies)
    with pytest.raises(Killed):
        run(grown / "media", out)
    assert len(index(out)) == 6
    dataset = open_dataset(out)
    assert len(dataset) == len(dataset.index) == len(dataset.sources()) == 3
    monkeypatch.undo()
    assert run(grown / "media", out)["samples"] == len(index(out)) == 6


def test_what_was_skipped_stays_listed(grown):
    (grown / "media" / "a.png").write_bytes(b"not a picture")
    card = run(grown / "media", grown / "out", max_bad=0.5)
    assert (card["samples"], card["skipped"]) == (5, 1)
    add(grown / "media", ["b.png"], seed=20)
    card = run(grown / "media", grown / "out", max_bad=0.5)
    assert (card["samples"], card["skipped"]) == (6, 1)
    (grown / "media" / "e.png").write_bytes(b"not a picture")
    (grown / "media" / "e.txt").write_text("a picture")
    with pytest.raises(UserError, match="1 of 1 files cannot be used"):
        run(grown / "media", grown / "out", max_bad=0.5)
    listed = (grown / "out" / "skipped.jsonl").read_text()
    assert [json.loads(line)["file"] for line in listed.splitlines()] == [
        "a.png",
        "e.png",
    ]
    assert len(open_dataset(grown / "out")) == 6


@pytest.mark.parametrize("change", ["caption", "bytes", "gone", "settings"])
def test_a_source_that_changed_in_any_other_way_is_refused(grown, change):
    settings, media = {}, grown / "media"
    if change == "caption":
        (media / "m.txt").write_text("another caption")
    elif change == "bytes":
        write_video(media / "m.png", np.zeros((1, 32, 48, 3), np.uint8), 16)
    elif change == "gone":
        (media / "m.txt").unlink()
        (media / "m.png").unlink()
    else:
        settings = {"max_tokens": 99}
    was = content(grown / "out")
    with pytest.raises(UserError, match="was prepared from another source"):
        run(media, grown / "out", **settings)
    assert content(grown / "out") == was
