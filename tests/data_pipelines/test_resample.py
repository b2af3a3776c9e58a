"""Clips that `prepare` scales down or thins out, by explicit settings only."""

import hashlib
import json

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.resample import (
    check_resampling,
    resampled,
    resampled_extent,
    scaled_size,
)
from data_pipelines.shards import PrepareConfig
from data_pipelines.sources.files import folder
from data_pipelines.sources.media import Extent, Media
from soraxla.core.errors import UserError
from soraxla.media.write import write_video
from tests.data_pipelines.test_prepare import content, index, run


def settings(**changes):
    return PrepareConfig(
        vae_sha256="abc",
        text_encoder="counting",
        max_tokens=100,
        shard_bytes=100,
        latent_channels=3,
        vae_spatial=8,
        conditions=False,
        **changes,
    )


def numbered(count, fps, height=2, width=2, **others):
    """A clip whose frame i holds the number i."""
    frames = (np.full((height, width, 3), i, np.uint8) for i in range(count))
    return Media("a clip", fps, frames, **others)


def numbers(media):
    return [int(frame[0, 0, 0]) for frame in media.frames]


@pytest.mark.parametrize(("rate", "fps"), [(30.0, 10.0), (25.0, 10.0), (30.0, 24.0)])
def test_the_frames_nearest_to_the_times_of_the_rate_are_kept(rate, fps):
    made = resampled(numbered(24, rate), settings(fps=fps))
    found = numbers(made)
    assert made.fps == fps
    for k, i in enumerate(found):
        assert abs(i / rate - k / fps) <= 0.5 / rate + 1e-9
    assert len(found) == round(24 * fps / rate) and len(set(found)) == len(found)


@pytest.mark.parametrize("rate", [0.0, 8.0, 12.0])
def test_a_clip_of_no_higher_rate_and_a_picture_stay_as_they_are(rate):
    made = resampled(numbered(5, rate), settings(fps=12.0))
    assert made.fps == rate and numbers(made) == [0, 1, 2, 3, 4]


def test_cameras_are_kept_of_the_same_frames():
    camera = np.arange(24.0)[:, None, None] * np.ones((1, 4, 4))
    made = resampled(numbered(24, 25.0, camera=camera), settings(fps=10.0))
    assert made.camera is not None
    assert made.camera[:, 0, 0].tolist() == numbers(made)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1080, 1920), (270, 480)),
        ((1920, 1080), (480, 270)),
        ((333, 1000), (160, 480)),
        ((480, 480), (480, 480)),
        ((10, 20), (10, 20)),
        ((1, 5000), (1, 480)),
    ],
)
def test_sides_are_scaled_down_with_their_aspect_and_never_up(size, expected):
    assert scaled_size(*size, 480) == expected


def test_fine_stripes_become_grey_and_a_frame_within_the_limit_is_untouched():
    """A filter that leaves pixels out would keep stripes, or make the frame black."""
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    media = Media("stripes", 0.0, iter([stripes]), size=(64, 96))
    made = resampled(media, settings(max_side=24))
    [frame] = made.frames
    assert frame.shape == (16, 24, 3) and made.size == (16, 24)
    assert np.abs(frame[:, 2:-2].astype(int) - 128).max() <= 8
    [same] = resampled(media._replace(frames=iter([stripes])), settings(max_side=96))[2]
    assert same is stripes


def test_the_size_of_shards_counts_what_is_left():
    extent = Extent(1080, 1920, 300, 5, 30.0)
    made = resampled_extent(extent, settings(max_side=480, fps=10.0))
    assert made == Extent(270, 480, 100, 5, 30.0)
    assert resampled_extent(extent, settings()) == extent


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    path = tmp_path_factory.mktemp("resample") / "media"
    path.mkdir()
    ramp = np.arange(26, dtype=np.uint8)[:, None, None, None] * 9
    write_video(path / "a.mp4", ramp + np.zeros((1, 48, 64, 3), np.uint8), 24)
    (path / "a.txt").write_text("it becomes light")
    return path


class Steered(list):
    name, content, actions, camera = "steered", "", ("jump",), False


def test_what_belongs_to_single_frames_or_pixels_is_refused(media):
    features = {"source": "simulator", "sha256": "a", "width": 21}
    for choice in ({"fps": 8.0}, {"max_side": 32}):
        with pytest.raises(UserError, match="the features simulator belong to"):
            made = settings(**choice, features=features)
            check_resampling(made, folder(media))
    steered = Steered(folder(media))
    check_resampling(settings(max_side=32), steered)
    with pytest.raises(UserError, match=r"fps is 8\.0, but the source has actions"):
        check_resampling(settings(fps=8.0), steered)


def test_prepare_records_both_and_another_choice_is_another_dataset(media, tmp_path):
    out = tmp_path / "out"
    card = run(media, out, max_side=32, fps=8.0)
    assert card == json.loads((out / records.CARD).read_text())
    assert (card["max_side"], card["fps"]) == (32, 8.0)
    [row] = index(out)
    assert (row["fps"], row["frames"]) == (8.0, 9)
    assert (row["height"], row["width"], row["crop"]) == (16, 32, [4, 0, 16, 32])
    before = content(out)
    assert run(media, out, max_side=32, fps=8.0) == card
    for other in ({}, {"max_side": 32}, {"max_side": 32, "fps": 12.0}):
        with pytest.raises(UserError, match="prepared from another source"):
            run(media, out, **other)
    assert content(out) == before


def test_without_a_choice_datasets_keep_their_fingerprint(media, tmp_path):
    """A dataset that was prepared before there was a choice is one without it."""
    card = run(media, tmp_path / "out")
    assert "max_side" not in card and "fps" not in card
    older = dict(
        vae_sha256="abc",
        text_encoder="counting",
        max_tokens=32768,
        shard_bytes=720,
        latent_channels=3,
        vae_spatial=8,
        conditions=False,
    )
    what = json.dumps([3, folder(media).content, older], sort_keys=True)
    assert card["fingerprint"] == hashlib.sha256(what.encode()).hexdigest()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"max_side": 15}, "max_side is 15, but a side needs at least 16 pixels"),
        ({"max_side": 31, "vae_spatial": 16}, "max_side is 31, but .* at least 32"),
        ({"fps": 0.0}, "fps is 0.0, expected more than 0"),
        ({"fps": float("nan")}, "fps is nan"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(media, tmp_path, choice, message):
    with pytest.raises(UserError, match=message):
        run(media, tmp_path / "out", **choice)
    assert not (tmp_path / "out").exists()
