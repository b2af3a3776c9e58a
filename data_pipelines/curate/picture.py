"""The stage `picture`: sharpness, light, colour, noise and blocks of the samples."""

from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines.curate.stage import Limit, Scores, Stage

STAGE = Stage(
    name="picture",
    summary="measures sharpness, exposure, contrast, colour, noise and blocks",
    scores={
        "sharpness": "detail at one pixel over detail at four, 0 to 1 and above",
        "exposure": "mean luma, 0 to 1",
        "contrast": "standard deviation of luma, 0 to 0.5",
        "colourfulness": "Hasler and Süsstrunk's measure, 0 to about 1",
        "noise": "standard deviation of noise, 0 to 1 (Immerkær)",
        "blockiness": "steps across 8-pixel borders over steps elsewhere",
    },
    limits={
        "exposure": Limit(min=0.08, max=0.95),
        "contrast": Limit(min=0.03),
        "sharpness": Limit(min=0.12),  # after these, which leave little detail
        "noise": Limit(max=0.12),
        "blockiness": Limit(max=2.5),
    },
)
# Variance at one pixel of a flat area after the rounding of luma to 219 levels, of RGB
# and of grey, and the noise of a good codec. A blurred picture has little more.
_ROUNDING = 0.3
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_COLOURS = np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32)  # of RGB


def scores(pictures: Sequence[np.ndarray], blocks: Sequence[float]) -> Scores:
    """Returns the median over samples of every score; all are absent without one."""
    if not pictures:
        return dict.fromkeys(STAGE.scores)
    each = [_one(picture) for picture in pictures]
    made: Scores = {name: float(np.median([e[name] for e in each])) for name in each[0]}
    return made | {"blockiness": float(np.median(blocks))}


def _one(picture: np.ndarray) -> dict[str, float]:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    mean, spread = cv2.meanStdDev(grey)
    return {
        "sharpness": sharpness(grey),
        "exposure": float(mean[0, 0]) / 255,
        "contrast": float(spread[0, 0]) / 255,
        "colourfulness": colourfulness(picture),
        "noise": noise(grey) / 255,
    }


def sharpness(grey: np.ndarray) -> float:
    """Returns how much of the detail within 4 pixels is within one.

    The ratio hardly depends on contrast. It is near 0 for a blurred picture, of which
    little but the rounding of pixels is left at one pixel. The picture is uint8.
    """
    exact = grey.astype(np.float32)
    fine = exact - cv2.GaussianBlur(exact, (0, 0), 1.0)
    coarse = exact - cv2.GaussianBlur(exact, (0, 0), 4.0)
    left = max(_variance(fine) - _ROUNDING, 0.0)
    return float(np.sqrt(left / (_variance(coarse) + 1.0)))


def _variance(values: np.ndarray) -> float:
    return float(cv2.meanStdDev(values)[1][0, 0]) ** 2


def colourfulness(picture: np.ndarray) -> float:
    """Returns Hasler and Süsstrunk's measure of colour (2003), over 255."""
    some = picture[::2, ::2].astype(np.float32)  # video has no finer colour
    mean, spread = cv2.meanStdDev(cv2.transform(some, _COLOURS))
    return float(np.hypot(*spread[:, 0]) + 0.3 * np.hypot(*mean[:, 0])) / 255


def noise(grey: np.ndarray) -> float:
    """Returns the standard deviation of noise of a uint8 picture, in its units.

    The median of Immerkær's filter (1996) takes the place of his mean, because edges
    would count as noise in the mean.
    """
    filtered = np.abs(cv2.filter2D(grey, cv2.CV_16S, _NOISE)).view(np.uint16)
    counts = cv2.calcHist([filtered], [0], None, [2048], [0, 2048]).reshape(-1)
    median = int(np.searchsorted(np.cumsum(counts), grey.size / 2))
    return median / (6 * 0.6745)


def blockiness(frame: np.ndarray) -> float:
    """Returns the mean step across borders of 8×8 blocks over that elsewhere.

    The RGB frame has its true size; 1 means no blocks.
    """
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    ratios = []
    for side in (grey, grey.T):
        step = cv2.absdiff(side[1:], side[:-1]).mean(1)
        at = np.arange(1, len(step) + 1) % 8 == 0
        if at.any() and not at.all():
            ratios.append((step[at].mean() + 0.5) / (step[~at].mean() + 0.5))
    return float(np.mean(ratios)) if ratios else 1.0
