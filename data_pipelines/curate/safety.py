"""The stage `safety`: the probability of unsafe pictures, by opennsfw in ONNX.

Without a model the score is absent. Where a score is required, an absent one drops the
clip: the stage fails closed.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.curate.aesthetic import Score, spread
from data_pipelines.curate.stage import Limit, Scores, Stage
from soraxla.core.errors import UserError

STAGE = Stage(
    name="safety",
    summary="scores unsafe pictures by opennsfw, if a model is given",
    scores={"unsafe": "largest probability over the samples"},
    limits={"unsafe": Limit(max=0.3)},
)
_MOST = 8  # pictures per clip
_MEAN_BGR = np.array([104, 117, 123], np.float32)  # of opennsfw's Caffe model


def scores(pictures: Sequence[np.ndarray], score: Score | None) -> Scores:
    """Returns the largest score of eight pictures at most; absent without a model."""
    if score is None or not pictures:
        return {"unsafe": None}
    each = [float(score(picture[None])[0]) for picture in spread(pictures, _MOST)]
    return {"unsafe": max(each)}


def opennsfw(path: Path) -> Score:
    """Returns the score of an opennsfw model in ONNX: (1, 224, 224, 3) BGR to (1, 2).

    Raises:
        UserError: onnxruntime is not installed, or the file is no such model.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(f"{path}: needs onnxruntime; run pip install onnxruntime")
    if not path.is_file():
        raise UserError(f"{path}: no such file; name opennsfw's ONNX file")
    runtime: Any = importlib.import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: is no ONNX model ({reason})") from None

    def score(pictures: np.ndarray) -> np.ndarray:
        return np.array([_run(session, name, picture) for picture in pictures])

    return score


def _run(session: Any, name: str, picture: np.ndarray) -> float:
    sized = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_LINEAR)
    middle = sized[16:240, 16:240, ::-1].astype(np.float32) - _MEAN_BGR
    return float(np.reshape(session.run(None, {name: middle[None]})[0], -1)[-1])
