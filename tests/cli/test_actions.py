"""`generate --actions`: the frame of each action, and its row for the network."""

from types import SimpleNamespace

import numpy as np
import pytest

from soraxla.cli.generate import _acting
from soraxla.generation.pipeline import assemble
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Animate, Extend
from soraxla.generation.tasks import sampling
from soraxla.packing.controls import Controls
from tests import tiny

CLIP = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
KNOWN = Controls(actions=("go", "dig"))


def acting(steps, task, frames):
    model = SimpleNamespace(controls=KNOWN)
    request = Request(
        prompt="a walk", width=32, height=32, fps=12.0, frames=frames, task=task
    )
    pipeline = SimpleNamespace(dit=SimpleNamespace(model=model))
    return _acting(steps.split(), request, pipeline)


@pytest.mark.parametrize(
    ("task", "frames", "first", "most"),
    [
        (Animate(), 9, 1, 8),
        (Animate(first=CLIP[:1]), 9, 1, 8),
        (Animate(last=CLIP[:1]), 9, 1, 7),
        (Animate(first=CLIP[:1], last=CLIP[:1]), 9, 1, 7),
        (Extend(video=CLIP), 20, 9, 11),
    ],
)
def test_actions_begin_with_the_first_frame_that_they_can_change(
    task, frames, first, most
):
    rows = acting(f"go*{most - 1} dig", task, frames).actions
    place = np.arange(frames)
    dig = place == first + most - 1
    np.testing.assert_array_equal(rows[:, 1], dig)
    np.testing.assert_array_equal(
        rows[:, 0], (place >= first) & (place < first + most) & ~dig
    )
    with pytest.raises(ValueError, match=f"last {most + 1} frames, but {most} are"):
        acting(f"go*{most + 1}", task, frames)


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="'gp' is no action: did you mean 'go'"):
        acting("gp*2", Animate(), 9)


def told(text):
    """The rows that the network is given with actions."""
    pipeline = assemble(tiny.loaded_dit(KNOWN), tiny.loaded_vae())
    request = acting(text, Extend(video=CLIP), 20)
    clips = {0: next(sampling(pipeline.context(request)))}
    text_of = {0: pipeline.text_encoder(["a walk"])[0]}
    [rows] = pipeline.rows(clips, text_of, SamplingConfig(steps=1, cfg_scale=1.0))
    return rows.batches[0]


@pytest.mark.slow
def test_the_rows_say_what_is_done():
    """Other actions, other controls, and nothing else; new frames have them."""
    one, two = told("go*4"), told("dig*4")
    for name in one._fields:
        same = np.array_equal(getattr(one, name), getattr(two, name))
        assert same == (name != "controls"), name
    assert one.controls.any() and two.controls.any()


@pytest.mark.slow
def test_the_network_is_told_what_is_done():
    """Other actions, another clip, but for the frames that are given."""
    pipeline = assemble(tiny.loaded_dit(KNOWN), tiny.loaded_vae())
    task, settings = Extend(video=CLIP), SamplingConfig(steps=1, cfg_scale=1.0)
    one, two = (
        dict(pipeline.generate_each([acting(text, task, 20)], settings))[0]
        for text in ("go*4", "dig*4")
    )
    np.testing.assert_array_equal(one[:9], two[:9])
    assert np.abs(one[9:].astype(int) - two[9:]).max() > 0
