"""Strokes and bites: they stay, they are where the tip was, captions count them."""

import functools
import re

import numpy as np

from data_pipelines.worlds.brush import NOUNS
from data_pipelines.worlds.marks import simulate
from data_pipelines.worlds.words import NUMBERS

TIMES = ("never", "once", "twice", "three times", "four times")


@functools.cache
def clips(count, **options):
    size = {"width": 64, "height": 64, "frames": 17, "fps": 12.0} | options
    return [simulate(seed, **size) for seed in range(count)]


def eaten(episode):
    return "bite_time" in episode.state


def test_a_mark_stays():
    for episode in clips(40):
        marked = episode.state["marked"]
        assert (marked[1:] >= marked[:-1]).all()
        assert marked[-1].sum() > marked[0].sum()


def test_pixels_change_only_by_the_mark_and_the_tool():
    """Bitten pixels are no longer food; a stroke's pixels keep their colour."""
    for episode in clips(40):
        ids, marked, video = episode.ids, episode.state["marked"], episode.video
        if eaten(episode):
            assert not (ids == 1)[marked].any()
            continue
        alone = marked[:-1] & (ids[:-1] == 1) & (ids[1:] == 1)
        change = np.abs(video[1:].astype(int) - video[:-1]).max(-1)
        assert np.median(change[alone]) <= 2
        assert ((ids == 1) <= marked).all()


def test_a_stroke_is_where_the_tip_was_down():
    strokes = [e for e in clips(25, frames=33) if not eaten(e)]
    lifted = 0
    for episode in strokes:
        state = episode.state
        x, y = state["brush"].T.astype(int)
        t = np.nonzero(state["down"])[0][1:]
        assert state["marked"][t, y[t], x[t]].mean() > 0.95
        lifted += not state["down"].all()
        assert state["down"].all() == (len(state["stroke"]) == 1)
    assert 0 < lifted < len(strokes)


def test_bites_appear_at_their_times_and_at_their_places():
    for episode in (e for e in clips(40) if eaten(e)):
        state = episode.state
        frames = np.round(state["bite_time"] * episode.fps).astype(int)
        grows = np.nonzero(np.diff(state["marked"].sum((1, 2))))[0] + 1
        assert set(grows) <= set(frames) and frames.min() == grows.min()
        for frame, place, radius in zip(
            frames, state["bite_position"], state["bite_radius"], strict=True
        ):
            new = state["marked"][frame] & ~state["marked"][frame - 1]
            rows, columns = np.nonzero(new)
            far = np.hypot(columns + 0.5 - place[0], rows + 0.5 - place[1])
            assert (far < 1.2 * radius).all()
        share = (
            state["marked"].sum((1, 2))
            / (state["marked"][0] | (episode.ids[0] == 1)).sum()
        )
        np.testing.assert_allclose(state["eaten"], share)


def test_captions_match_the_state():
    for frames in (1, 5):
        for episode in clips(60, frames=frames, width=32, height=32):
            text, state = episode.caption, episode.state
            if not eaten(episode):
                assert str(state["surface"]) in text and state["object"][1] in text
                for name in state["stroke"]:
                    assert any(
                        f"{state['colour']} {noun}" in text for noun in NOUNS[str(name)]
                    ), text
                continue
            bites = len(state["bite_time"])
            assert str(state["object"][0]) in text, text
            counted = re.search(rf"\b{NUMBERS[bites]} bite|{TIMES[bites]}", text)
            assert counted or (frames == 1 and not bites), text
