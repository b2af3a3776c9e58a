"""Every world is pure, has the requested size, and has ids that match its pixels."""

import numpy as np
import pytest

from data_pipelines.worlds import WORLDS, draw_size
from data_pipelines.worlds.draw import COLOURS
from tests.marks import slow

SIZE = {"width": 64, "height": 64, "frames": 17, "fps": 12.0}

worlds = pytest.mark.parametrize("world", WORLDS)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("world", [w for w in WORLDS if w != "voxel"])
def test_a_clip_is_a_function_of_its_arguments(world):  # `test_voxel` has the other
    first = WORLDS[world](7, **SIZE)
    np.random.default_rng().random(9)
    again = WORLDS[world](7, **SIZE)
    assert (first.caption, first.fps) == (again.caption, again.fps)
    for name in ("video", "actions", "camera", "depth", "ids"):
        assert same(getattr(first, name), getattr(again, name)), name
    assert first.state.keys() == again.state.keys()
    assert all(same(first.state[k], again.state[k]) for k in first.state)
    assert not same(first.video, WORLDS[world](8, **SIZE).video)


@worlds
@pytest.mark.parametrize("seed", [0, 3, 4, *slow(1, 2, *range(5, 30))])
def test_a_clip_has_the_asked_size(world, seed):
    size = draw_size(seed)
    episode = WORLDS[world](seed, **size._asdict())
    whole = (size.frames, size.height, size.width)
    assert episode.video.shape == (*whole, 3) and episode.fps == size.fps
    assert episode.ids.shape == episode.depth.shape == whole
    assert episode.camera.shape == (size.frames, 4, 4)
    assert len(episode.actions) == size.frames
    assert episode.depth.dtype == episode.camera.dtype == np.float32
    assert all(value.dtype != object for value in episode.state.values())
    caption = episode.caption
    assert caption == " ".join(caption.split()) and not set("{}") & set(caption)


@pytest.mark.parametrize("world", ["occlusion", "physics"])
def test_ids_match_the_pixels(world):
    """The middle of what `ids` calls object k is nearest to the colour of row k-1."""
    right = total = 0
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names], float)
    for seed in range(40):
        episode = WORLDS[world](seed, **SIZE)
        for k, name in enumerate(episode.state["colour"], 1):
            pixels = episode.video[episode.ids == k].astype(float)
            if len(pixels) < 50:
                continue
            # The hue survives shading: compare directions and brightness loosely.
            middle = np.median(pixels, 0)
            scaled = palette * (middle @ palette.T / (palette**2).sum(1))[:, None].clip(
                0.5, 1.3
            )
            nearest = names[np.linalg.norm(scaled - middle, axis=1).argmin()]
            right, total = right + (nearest == name), total + 1
    assert total > 40 and right / total > 0.95


def test_sizes_are_of_whole_patches_and_vary():
    sizes = [draw_size(seed) for seed in range(2000)]
    assert all(s.width % 16 == s.height % 16 == 0 for s in sizes)
    assert all(s.frames % 4 == 1 and 1 <= s.frames <= 65 for s in sizes)
    assert all(8 <= s.fps <= 24 for s in sizes)
    share = np.mean([s.frames == 1 for s in sizes])
    assert 0.08 < share < 0.12
    shapes = [np.sign(s.width - s.height) for s in sizes]
    assert min(np.mean(np.equal(shapes, sign)) for sign in (-1, 0, 1)) > 0.2
    assert all(draw_size(seed, pictures=0.0).frames > 1 for seed in range(500))
    assert all(draw_size(seed, pictures=1.0).frames == 1 for seed in range(500))
    commonest = max(set(sizes), key=sizes.count)
    assert (commonest.width, commonest.height, commonest.frames) == (64, 64, 33)


@worlds
@pytest.mark.parametrize(
    "wrong",
    [{"width": 16}, {"height": 400}, {"frames": 0}, {"fps": 0.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_size_that_cannot_be_drawn_is_refused_in_one_line(world, wrong):
    with pytest.raises(ValueError, match="expected") as error:
        WORLDS[world](0, **(SIZE | wrong))
    assert "\n" not in str(error.value)
