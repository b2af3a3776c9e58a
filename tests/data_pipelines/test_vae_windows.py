"""Windows: native pixels only, one shape a batch, exact resume."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import SAMPLES, vae_windows
from data_pipelines.sources.files import folder
from data_pipelines.vae_windows import WindowConfig, WindowDataset, WindowShape
from soraxla.media.read import probe, read_clip, read_frames
from tests.marks import slow

CLIP = WindowShape(frames=5, height=48, width=64, batch=3)
STILL = WindowShape(frames=1, height=112, width=112, batch=2, weight=0.5)
HUGE = WindowShape(frames=9, height=480, width=640, batch=1, weight=9.0)
SPEC = WindowConfig(shapes=(CLIP, STILL, HUGE))


@pytest.fixture(scope="module")
def files():
    return [item.file for item in folder(SAMPLES)]


def test_a_batch_has_one_shape_of_the_table(files):
    dataset = WindowDataset(files, SPEC, seed=0)
    assert dataset.shapes == (CLIP, STILL)  # no file is as large as HUGE
    seen = {dataset.batch_at(step)["video"].shape for step in range(20)}
    assert seen == {(3, 5, 48, 64, 3), (2, 1, 112, 112, 3)}


def test_hosts_read_their_own_windows_of_the_same_batches(files):
    dataset = WindowDataset(files, SPEC, seed=0)
    shares = [
        dataset.for_host(lambda batch, host=host: range(host, batch, 2))
        for host in range(2)
    ]
    for step in range(3):
        whole = dataset.batch_at(step)["video"]
        for host, share in enumerate(shares):
            np.testing.assert_array_equal(share.batch_at(step)["video"], whole[host::2])


def test_windows_are_crops_of_the_files(files):
    """Nothing is scaled or padded: a window's pixels stand so in one of the files."""
    clips = [read_clip(file) for file in files]
    dataset = WindowDataset(files, SPEC, seed=1)
    for step in range(4):
        for window in dataset.batch_at(step)["video"]:
            assert any(contains(clip, window) for clip in clips)


def contains(clip, window):
    if any(a < b for a, b in zip(clip.shape, window.shape, strict=True)):
        return False
    views = np.lib.stride_tricks.sliding_window_view(clip, (1, 1, 8, 3))
    starts = np.argwhere((views[:, :, :, 0, 0, 0] == window[0, 0, :8]).all((-1, -2)))
    t, h, w = window.shape[:3]
    return any(
        np.array_equal(clip[f : f + t, y : y + h, x : x + w], window)
        for f, y, x in starts
    )


def test_the_state_is_exact(files):
    walk = iter(WindowDataset(files, SPEC, seed=3))
    for _ in range(3):
        next(walk)
    state = walk.get_state()
    assert state == {"step": 3}
    expected = [next(walk)["video"] for _ in range(3)]
    again = iter(WindowDataset(files, SPEC, seed=3))
    again.set_state(state)
    for batch in expected:
        np.testing.assert_array_equal(next(again)["video"], batch)


def test_the_seed_and_the_step_decide(files):
    one, other = (WindowDataset(files, SPEC, seed=seed) for seed in (0, 1))

    def batches(dataset):
        return [dataset.batch_at(step)["video"].tobytes() for step in range(6)]

    def shapes(dataset):
        return [dataset.batch_at(step)["video"].shape for step in range(20)]

    assert batches(one) != batches(other)
    assert shapes(one) != shapes(other)
    assert all(
        len({window.tobytes() for window in one.batch_at(step)["video"]}) > 1
        for step in range(6)
    )
    assert len(set(batches(one))) == 6
    backwards = [one.batch_at(step)["video"].tobytes() for step in range(5, -1, -1)]
    assert backwards[::-1] == batches(one)


@pytest.mark.parametrize("budget", [0, *slow(2_000_000)])
def test_the_memory_budget_changes_nothing_but_memory(files, budget, monkeypatch):
    decoded = 0

    def counting(file):
        nonlocal decoded
        decoded += 1
        return read_frames(file)

    monkeypatch.setattr(vae_windows, "read_frames", counting)
    free = WindowDataset(files, SPEC, seed=0)
    tight = WindowDataset(
        files, WindowConfig(shapes=SPEC.shapes, cache_bytes=budget), seed=0
    )
    for step in range(8):
        expected = free.batch_at(step)["video"]
        np.testing.assert_array_equal(tight.batch_at(step)["video"], expected)
        held = sum(clip.nbytes for clip in tight._clips._clips.values())
        assert held == tight._clips._held <= budget
    decoded = 0
    for step in range(8):
        free.batch_at(step)
    assert decoded == 0


@pytest.mark.parametrize("budget", [0, *slow(2_000_000)])
@pytest.mark.parametrize("missing", [3, *slow(40)])
def test_a_film_shorter_than_it_says_gives_its_last_frames(
    files, budget, missing, monkeypatch
):
    """Or is named, where a window does not fit in it."""
    film = next(file for file in files if file.suffix == ".mp4")
    real = read_clip(film)

    def longer(file):
        info = probe(file)
        return dataclasses.replace(info, frames=len(real) + missing)

    monkeypatch.setattr(vae_windows, "probe", longer)
    spec = WindowConfig(shapes=(CLIP,), cache_bytes=budget)
    dataset = WindowDataset([film], spec, seed=0)
    for step in range(4):
        for window in dataset.batch_at(step)["video"]:
            assert contains(real, window)
    much = dataclasses.replace(CLIP, frames=len(real) + 1)
    dataset = WindowDataset(
        [film], WindowConfig(shapes=(much,), cache_bytes=budget), seed=0
    )
    with pytest.raises(ValueError, match=rf"holds {len(real)} frames, but declares"):
        dataset.batch_at(0)


def test_steps_follow_the_weights(files):
    shapes = [
        WindowShape(frames=1, height=16, width=16, batch=1, weight=weight)
        for weight in (3.0, 1.0)
    ]
    spec = WindowConfig(
        shapes=(shapes[0], WindowShape(**{**vars(shapes[1]), "batch": 2}))
    )
    dataset = WindowDataset(files[:1], spec, seed=0)
    sizes = [len(dataset.batch_at(step)["video"]) for step in range(400)]
    assert 0.68 < sizes.count(1) / 400 < 0.82


def test_files_too_small_for_every_shape_are_left_out(files):
    tall = WindowShape(frames=1, height=128, width=64, batch=1)
    dataset = WindowDataset(files, WindowConfig(shapes=(tall,)), seed=0)
    assert 0 < dataset.skipped < len(files)
    with pytest.raises(ValueError, match=r"all 10 files are smaller.*640x480") as error:
        WindowDataset(files, WindowConfig(shapes=(HUGE,)), seed=0)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no media files"):
        WindowDataset([], SPEC, seed=0)


def test_the_table_is_checked():
    with pytest.raises(ValueError, match="5 window shapes, expected 1 to 4"):
        WindowConfig(shapes=(CLIP,) * 5)
    with pytest.raises(ValueError, match="must be positive"):
        WindowConfig(shapes=(WindowShape(frames=1, height=16, width=16, batch=0),))
