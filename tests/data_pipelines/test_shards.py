"""Shards: boundaries known before the work, and written by any number of workers."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines import records, shards
from data_pipelines.sources.files import open_source
from soraxla.core.errors import UserError
from tests.data_pipelines.test_prepare import (
    content,
    encode_video,
    index,
    media,
    record,
    run,
)

__all__ = ["media"]  # a fixture


def test_a_skipped_file_moves_no_boundary_of_shards(media, tmp_path):
    def sometimes(frames):
        return encode_video(frames) * (np.nan if frames.shape[1:3] == (32, 48) else 1)

    run(media, tmp_path / "whole")
    card = run(media, tmp_path / "out", encode_video=sometimes, max_bad=0.2)
    whole, out = content(tmp_path / "whole"), content(tmp_path / "out")
    assert (card["skipped"], card["shards"]) == (1, 3)
    shards = {name for name in whole if name.startswith("data-")}
    assert len(shards) == 4 and shards - out.keys() == {records.shard_name(0)}
    assert all(out[name] == whole[name] for name in shards & out.keys())
    assert {row["shard"] for row in index(tmp_path / "out")} == {1, 2, 3}


@pytest.mark.parametrize(
    ("sizes", "firsts"),
    [
        ([3, 3, 3, 3], [0, 2, 4]),
        ([0, 9, 0, 3, 3, 0], [0, 1, 2, 6]),
        ([9], [0, 1]),
        ([6, 1], [0, 1, 2]),
        ([], [0, 0]),
    ],
)
def test_a_shard_is_full_or_holds_one_sample(sizes, firsts):
    assert shards.boundaries(sizes, 6) == firsts


@pytest.mark.parametrize("conditions", [True, False])
def test_records_are_about_as_large_as_was_planned(media, tmp_path, conditions):
    """A record has a header of some 200 bytes more, and texts are below the bound."""
    out = tmp_path / "out"
    run(media, out, conditions=conditions, shard_bytes=1 << 20)
    settings = shards.PrepareConfig(
        latent_channels=3, vae_spatial=8, max_tokens=32768, conditions=conditions,
        vae_sha256="", text_encoder="", shard_bytes=1,
    )  # fmt: skip
    extents = shards.extents(open_source(media))
    planned = {
        sample.uid: shards.record_bytes(extent, settings, text_width=5)
        for sample, extent in zip(open_source(media), extents, strict=True)
    }
    for row in index(out):
        tensors = record(out, row)
        assert 0 < planned[row["uid"]] - sum(t.nbytes for t in tensors.values()) < 400


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 3, 1)])
def test_any_number_of_workers_writes_the_same_bytes(media, tmp_path, order):
    (media / "odd.png").write_bytes(b"no picture")
    settings = {"max_tokens": 24, "max_bad": 0.2, "conditions": True}
    expected = run(media, tmp_path / "whole", **settings)
    out, workers = tmp_path / "out", len(order)
    for worker in order[:-1]:
        assert run(media, out, worker=(worker, workers), **settings) is None
    assert run(media, out, worker=(order[-1], workers), **settings) == expected
    assert content(out) == content(tmp_path / "whole")


def test_a_worker_leaves_the_shards_of_others(media, tmp_path):
    run(media, tmp_path / "out", worker=(1, 3))
    written = [path.name for path in (tmp_path / "out").glob("data-*")]
    assert written == [records.shard_name(1)]
    for bad in ((3, 3), (-1, 3)):
        with pytest.raises(UserError, match=f"worker is {bad[0]} of 3, expected 0 to"):
            run(media, tmp_path / "out", worker=bad)


def test_too_many_bad_media_of_all_workers_together(media, tmp_path):
    """Each worker has seen one."""
    for name in ("short.mp4", "odd.png"):
        (media / name).write_bytes(b"nothing")
    out = tmp_path / "out"
    assert run(media, out, worker=(0, 2), max_bad=0.3) is None
    with pytest.raises(UserError, match=r"2 of 5 files cannot be used"):
        run(media, out, worker=(1, 2), max_bad=0.3)
    assert run(media, out, max_bad=0.4)["skipped"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_commands_on_one_folder_end_in_the_bytes_of_one(tmp_path, workers):
    """They run at the same time, with the shipped VAE; one is killed and repeated."""
    words = [sys.executable, "-m", "soraxla.cli.main", "prepare", "--source", "samples"]
    words += ["--shard-mib", "0.2", "--out"]
    subprocess.run([*words, tmp_path / "whole"], check=True)
    out, shares = tmp_path / "out", [f"{i}/{workers}" for i in range(workers)]
    running = [subprocess.Popen([*words, out, "--worker", share]) for share in shares]
    while not list(out.glob("progress/*/*.json")):
        time.sleep(0.1)
    time.sleep(random.random())
    running[0].kill()
    assert [process.wait() for process in running[1:]] == [0] * (workers - 1)
    running[0].wait()
    subprocess.run([*words, out, "--worker", shares[0]], check=True)
    assert content(out) == content(tmp_path / "whole")
    assert len(list(out.glob("data-*"))) >= workers
