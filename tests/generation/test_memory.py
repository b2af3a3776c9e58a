"""A long video is encoded, decoded, blended and chosen in the memory of a short one."""

import tracemalloc

import numpy as np
import pytest

from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.generation.context import TaskContext
from soraxla.generation.pipeline import Pipeline, assemble
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import (
    Animate,
    Connect,
    Edit,
    Extend,
    Inpaint,
    Loop,
    Outpaint,
)
from soraxla.generation.tasks import sampling
from soraxla.media.lazy_video import LazyVideo
from tests import tiny
from tests.generation import fake

SIDE = 96
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[20:40, 20:40] = True


def waves(frames, side=SIDE):
    """A moving clip whose frames are made when they are read."""
    x = np.arange(side)[:, None] + np.arange(side)

    def frame(t):
        return np.repeat((x + 3 * t).astype(np.uint8)[:, :, None], 3, axis=2)

    return LazyVideo((frames, side, side, 3), lambda a, b: map(frame, range(a, b)))


def peak(run):
    """The most that a function holds at once, in frames of the videos."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / (SIDE * SIDE * 3)
    finally:
        tracemalloc.stop()


def read(task, frames, limit):
    """Samples a task, with latents of zeros, and reads its video."""
    request = Request(
        prompt="x", width=SIDE, height=SIDE, frames=frames, fps=24.0, task=task
    )
    vae = LoadedModel(params=None, model=tiny.VAE, config={})
    context = TaskContext(request=request, vae=vae, patch=(1, 2, 2), limit=limit)
    steps = sampling(context)
    clip = next(steps)
    while True:
        try:
            clip = steps.send(np.zeros_like(clip.latents))
        except StopIteration as done:
            assert sum(1 for _ in done.value) == frames
            return


# The VAE reads and makes floats, at this size of four frames at once. Numbers are in
# frames of uint8, so that this chunk counts as 16.
CHUNK = 4 * 4


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda n: (Animate(), n), None),
        (lambda n: (Animate(), n), 9),
        (lambda n: (Animate(last=waves(1)), n), 9),
        (lambda n: (Extend(video=waves(n)), 2 * n), None),
        (lambda n: (Extend(video=waves(n, SIDE + 8)), 2 * n), None),
        (lambda n: (Extend(video=waves(n), direction="backward"), 2 * n), 9),
        (lambda n: (Extend(video=waves(n), direction="both"), 2 * n), None),
        (lambda n: (Connect(before=waves(n), after=waves(n)), 3 * n), 9),
        (lambda n: (Loop(video=waves(n), strength=0.0), 2 * n), None),
        (lambda n: (Loop(video=waves(n), strength=0.5), 2 * n), None),
        (lambda n: (Loop(), n), 9),
        (lambda n: (Edit(video=waves(n)), n), None),
        (lambda n: (Inpaint(video=waves(n // 2), mask=HOLE), n // 2), None),
        (lambda n: (Outpaint(video=waves(n // 2, SIDE - 32)), n // 2), None),
    ],
)
def test_a_task_holds_three_chunks_of_its_video(monkeypatch, make, limit):
    """It holds three of each of two generated clips that it fades into each other."""
    fake.replace_vae(monkeypatch)
    task, frames = make(18)
    read(task, frames, limit)  # so that what only first calls make is not counted
    task, frames = make(121)
    clips = 2 if task.bridge_strength in (0.0, 0.5) else 1
    assert peak(lambda: read(task, frames, limit)) < 3 * CHUNK * clips < frames


@pytest.mark.slow
def test_of_several_takes_no_frame_is_held(monkeypatch):
    """They are decoded to be measured, and the best one again."""
    pipeline = assemble(tiny.loaded_dit(), tiny.loaded_vae())
    request = Request(
        prompt="x", width=SIDE, height=SIDE, frames=60, task=Extend(video=waves(30))
    )
    videos = {2**24 * take: waves(60) for take in range(3)}
    monkeypatch.setattr(Pipeline, "_takes", lambda *_: iter(videos.items()))

    def run():
        settings = SamplingConfig(takes=3)
        [(_, video)] = pipeline.generate_lazily([request], settings)
        assert sum(1 for _ in video) == 60

    run()
    assert peak(run) < 3 * CHUNK
