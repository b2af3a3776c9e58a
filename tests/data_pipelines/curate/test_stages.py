"""Each stage tells a fault from a plain clip, on small arrays."""

import numpy as np
import pytest

from data_pipelines.curate import (
    aesthetic,
    borders,
    caption,
    motion,
    people,
    picture,
    safety,
    text,
)
from data_pipelines.curate.stage import Sampled
from data_pipelines.curate.stages import refusal
from data_pipelines.transforms import Box
from soraxla.core.errors import UserError
from tests.data_pipelines.curate.films import shot

CLIP = shot(0, 6, size=(180, 320), speed=6)
PICTURES = list(CLIP)


def samples(clip):
    made = []
    for index, frame in enumerate(clip):
        rows, columns = borders.levels(frame)
        sample = Sampled(
            index=index, picture=frame, rows=rows, columns=columns, blockiness=1.0
        )
        made.append(sample)
    return made


def crop(clip):
    return borders.crop(samples(clip), *clip.shape[1:3], borders.BordersConfig())


def test_bars_are_cropped_and_dark_pictures_are_not():
    assert crop(CLIP) == Box(top=0, left=0, height=180, width=320)
    boxed = CLIP.copy()
    boxed[:, :20] = boxed[:, 160:] = boxed[:, :, 280:] = 3
    assert crop(boxed) == Box(top=22, left=0, height=136, width=278)
    boxed[3, :20] = CLIP[3, :20]  # once in a while, the bar shows a picture
    assert crop(boxed).top == 0
    assert crop(CLIP // 20) == Box(top=0, left=0, height=180, width=320)


def test_motion_is_measured_in_percent_of_the_diagonal():
    cfg = motion.MotionConfig()
    moving = motion.scores(PICTURES, 0.5, cfg)
    still = motion.scores(PICTURES[:1] * 4, 0.5, cfg)
    truth = 100 * 6 / np.hypot(180, 320) / 0.5
    assert moving["camera"] == pytest.approx(truth, rel=0.1)
    assert moving["object"] < 0.1 * truth and moving["jitter"] < 0.1 * truth
    assert still["mean"] < 0.05 and still["still"] > 0.99
    assert set(motion.scores(PICTURES[:1], 0.5, cfg).values()) == {None}


def test_an_object_moves_beside_the_camera():
    clip = np.repeat(CLIP[:1], 3, 0)
    for t in range(3):
        clip[t, 60:120, 60 + 8 * t : 120 + 8 * t] = 255 - CLIP[0, 60:120, 60:120]
    scores = motion.scores(list(clip), 0.5, motion.MotionConfig())
    assert scores["object"] > 2 * scores["camera"] > 0


def one(frame):
    return picture.scores([frame], [picture.blockiness(frame)])


def drops(frame):
    scores = {f"score.picture.{name}": value for name, value in one(frame).items()}
    limits = picture.STAGE.limits
    return refusal(scores, "picture", limits).partition(" ")[0]


def test_faults_of_the_picture_are_told_apart():
    import cv2

    plain, rng = CLIP[0], np.random.default_rng(0)
    assert drops(plain) == ""
    assert drops(cv2.GaussianBlur(plain, (0, 0), 6)) == "sharpness"
    assert drops(plain // 10) == "exposure"
    assert drops((plain // 16) + 110) == "contrast"
    noisy = plain + rng.normal(0, 60, plain.shape)
    assert drops(np.clip(noisy, 0, 255).astype(np.uint8)) == "noise"
    blocks = cv2.resize(plain[::8, ::8], (320, 184), interpolation=cv2.INTER_NEAREST)
    assert drops(blocks[:180]) == "blockiness"
    grey = np.repeat(plain[..., :1], 3, -1)
    assert one(grey)["colourfulness"] < 0.01 < one(plain)["colourfulness"]


def test_noise_is_measured():
    noisy = 128 + np.random.default_rng(0).normal(0, 10, (180, 320))
    assert picture.noise(noisy.round().astype(np.uint8)) == pytest.approx(10, rel=0.1)


def written(clip, words, *, place=(20, 150), scale=1.1):
    import cv2

    clip = list(clip.copy())
    for frame in clip:
        cv2.putText(frame, words, place, 0, scale, (255, 255, 255), 2, cv2.LINE_AA)
    return clip


def test_text_over_a_moving_picture_is_found():
    cfg = text.TextConfig()
    limit = text.STAGE.limits
    plain = text.scores(PICTURES, cfg)
    words = text.scores(written(CLIP, "BREAKING NEWS"), cfg)
    assert plain["share"] == 0 and plain["logo"] < 0.01
    assert words["share"] > 2 * limit["share"].max
    logo = text.scores(written(CLIP, "tv", place=(270, 40), scale=1.4), cfg)
    assert logo["logo"] > limit["logo"].max
    still = text.scores(PICTURES[:1] * 4, cfg)
    assert still["logo"] < 0.02


def test_scores_of_models_are_absent_without_one():
    assert aesthetic.scores(PICTURES, None) == {"score": None}
    assert safety.scores(PICTURES, None) == {"unsafe": None}
    assert people.scores(PICTURES, None) == {"count": None}
    assert set(caption.caption(PICTURES, None).values()) == {None}


def test_models_are_called_on_a_few_pictures():
    weight = np.array([[2.0, 0.0]])
    head = aesthetic.linear_head(lambda p: np.full((len(p), 2), 3.0), weight, 1.0)
    scores = aesthetic.scores(PICTURES * 4, head)
    assert scores["score"] == pytest.approx(2 / np.sqrt(2) + 1)
    unsafe = safety.scores(PICTURES, lambda p: np.array([p.max() / 1000]))
    assert unsafe["unsafe"] == pytest.approx(CLIP.max() / 1000)
    count = people.scores(PICTURES, lambda p: np.arange(len(p)))
    assert count == {"count": 5}
    captioner = caption.Captioner("toy", lambda p: f" {len(p)}\npictures ")
    found = caption.caption(PICTURES, captioner)
    assert found == {"caption": "6 pictures", "caption_model": "toy"}


def test_a_safety_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"onnxruntime|no such file"):
        safety.opennsfw(tmp_path / "a.onnx")
