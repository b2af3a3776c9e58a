"""Cuts, fades and flashes; the ends and the length of shots."""

import numpy as np
import pytest

from data_pipelines.curate.shots import ShotsConfig, find_cuts, find_shots
from tests.data_pipelines.curate.films import shot

CFG = ShotsConfig()
A, B, C = shot(0, 40), shot(1, 30), shot(2, 50)
FPS = 25.0


def flat(level, frames):
    return np.full((frames, *A.shape[1:]), level, np.uint8)


def faded(clip, frames=15):
    ramp = np.ones(len(clip), np.float32)
    ramp[-frames:] = np.linspace(1, 0, frames)
    return (clip * ramp[:, None, None, None]).astype(np.uint8)


def spans(*clips, cfg=CFG):
    frames = np.concatenate(clips)
    return [(s.start, s.start + s.frames) for s in find_shots(frames, FPS, cfg)]


def test_cuts_are_found_and_their_ends_trimmed():
    assert find_cuts(np.concatenate([A, B, C]), FPS, CFG) == [40, 70]
    assert spans(A, B, C) == [(0, 38), (42, 68), (72, 120)]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("kind", ["white", "other"])
def test_a_flash_is_no_cut(kind, frames):
    clip = A.copy()
    clip[20 : 20 + frames] = 255 if kind == "white" else B[:frames]
    assert spans(clip) == [(0, 40)]


@pytest.mark.parametrize("black", [3, 12, 60])
def test_a_fade_parts_two_shots_and_leaves_its_dark_end_out(black):
    found = spans(faded(B), flat(0, black), C)
    assert len(found) == 2
    (start, stop), (again, end) = found
    assert start == 0 and 20 <= stop <= 28
    assert again == 30 + black + CFG.trim_frames and end == 80 + black


def test_flat_ends_of_a_film_are_in_no_shot():
    assert spans(flat(0, 20), C, flat(0, 20)) == [(20, 68)]
    assert spans(flat(0, 30)) == [(0, 30)]  # other stages drop it


def test_a_long_shot_is_divided_before_its_end():
    """The frames of a film are pulled no further than a shot needs."""
    pulled = 0

    def frames():
        nonlocal pulled
        for frame in np.concatenate([C, C[::-1], C]):
            pulled += 1
            yield frame

    found = find_shots(frames(), FPS, ShotsConfig(max_seconds=1.0))
    assert next(found) == (0, 25) and pulled < 40
    assert [s.start for s in found] == [25, 50, 75, 100, 125]
