"""Several takes of a video, of which the one whose joins show least is kept."""

import dataclasses

import numpy as np
import pytest

from soraxla.generation.blending import join_ratio
from soraxla.generation.pipeline import assemble
from soraxla.generation.progress import Progress
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Animate, Connect, Edit, Extend, Loop
from tests import tiny
from tests.generation import fake

ONCE = SamplingConfig(steps=1, cfg_scale=1.0, seed=3)
CLIP = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
FRAME = CLIP[:1]


def request(task, frames):
    return Request(
        prompt="a ball", width=32, height=32, frames=frames, fps=12.0, task=task
    )


@pytest.fixture(scope="module")
def pipeline():
    """The models are replaced: a take is chosen by its frames."""
    with pytest.MonkeyPatch.context() as patch:
        fake.replace_models(patch)
        yield assemble(tiny.loaded_dit(), tiny.loaded_vae())


@pytest.mark.parametrize(
    "task, frames, joins",
    [
        (Animate(), 17, []),
        (Animate(first=FRAME), 17, [1]),
        (Animate(last=FRAME), 17, [16]),
        (Animate(first=FRAME, last=FRAME), 17, [1, 16]),
        (Extend(video=CLIP), 21, [9]),
        (Extend(video=CLIP, direction="backward"), 21, [12]),
        (Extend(video=CLIP, direction="both"), 21, [6, 15]),
        (Extend(video=CLIP, direction="both"), 10, [9]),
        (Connect(before=CLIP, after=CLIP), 33, [9, 24]),
        (Loop(video=CLIP), 24, [0, 9]),
        (Loop(), 33, [0, 18]),
        (Edit(video=CLIP), 9, []),
    ],
)
def test_joins_stand_between_what_is_given_and_what_is_made(
    pipeline, task, frames, joins
):
    assert pipeline.joins(request(task, frames)) == joins


def test_the_take_whose_joins_show_least_is_kept(pipeline):
    asked = [request(Extend(video=CLIP), 21), request(Loop(video=CLIP), 24)]
    kept = dict(pipeline.generate_each(asked, dataclasses.replace(ONCE, takes=3)))
    assert sorted(kept) == [0, 1]
    again = {2**24 * i + place: asked[place] for i in range(3) for place in range(2)}
    single = dict(pipeline._takes(again, ONCE, Progress()))
    for place, wanted in enumerate(asked):
        joins, closed = pipeline.joins(wanted), isinstance(wanted.task, Loop)
        takes = [single[place + 2**24 * i] for i in range(3)]
        ratios = [join_ratio(take, joins, closed=closed) for take in takes]
        assert len(set(ratios)) == 3
        np.testing.assert_array_equal(kept[place], takes[int(np.argmin(ratios))])


def test_a_take_is_the_same_whatever_else_is_asked_for(pipeline):
    twice = dataclasses.replace(ONCE, takes=2)
    asked = [request(Loop(video=CLIP), 24), request(Extend(video=CLIP), 21)]
    [(_, alone)] = pipeline.generate_each(asked[:1], twice)
    beside = dict(pipeline.generate_each(asked, twice))[0]
    assert np.abs(beside.astype(int) - alone).max() <= 1


def test_without_a_join_there_is_nothing_to_choose_by(pipeline):
    twice = dataclasses.replace(ONCE, takes=2)
    with pytest.raises(ValueError, match="has no join with input frames"):
        pipeline.generate_each([request(Animate(), 17)], twice)


@pytest.mark.parametrize("takes", [0, 101])
def test_takes_are_one_to_a_hundred(takes):
    with pytest.raises(ValueError, match="expected 1 to 100"):
        SamplingConfig(takes=takes)
