"""Extractors of frame features, from local weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, PyTree, UInt8

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import Extractor
from soraxla.files.hashing import sha256_of_tree
from soraxla.files.hub import local
from soraxla.models.text import clip_vision
from soraxla.parallel.compiler import encoder_dtype, jit

_FRAMES = 16  # in a batch, whatever the length of a clip, so that its digits are fixed


@dataclass(frozen=True, kw_only=True, eq=False)
class CLIPFeatures:
    """The image embeddings of CLIP (arXiv 2103.00020), not normalised.

    `sha256` is of the weights; the preprocessing is that of the published model.
    """

    name: str = "clip"
    sha256: str
    cfg: clip_vision.CLIPVisionConfig
    params: PyTree = field(repr=False)

    @property
    def dimension(self) -> int:
        return self.cfg.projection_dim

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"]
    ) -> Float[np.ndarray, "t d"]:
        run, found = _compiled(self.cfg), []
        for first in range(0, len(frames), _FRAMES):
            part = list(frames[first : first + _FRAMES])
            pixels = clip_vision.preprocess(part, self.cfg.image_size)
            filled = np.zeros((_FRAMES, *pixels.shape[1:]), np.float32)
            filled[: len(part)] = pixels
            found.append(np.asarray(run(self.params, filled))[: len(part)])
        return np.concatenate(found)


def load_features(spec: str) -> Extractor:
    """Returns the extractor of NAME:FOLDER, such as "clip:weights/clip-vit-base".

    Raises:
        UserError: an unknown name, or no folder of such weights.
    """
    name, _, place = spec.partition(":")
    if name not in EXTRACTORS:
        raise UserError(f"unknown features {name!r}{nearest(name, EXTRACTORS)}")
    if not place:
        raise UserError(
            f"features {spec!r} name no weights, expected {name}:FOLDER, such as "
            f"{name}:weights/{name}, or {name}:hf:OWNER/NAME"
        )
    return EXTRACTORS[name](local(place))


def _clip(folder: Path) -> Extractor:
    params, cfg = clip_vision.load(folder, encoder_dtype())
    return CLIPFeatures(sha256=sha256_of_tree(params), cfg=cfg, params=params)


@functools.lru_cache(maxsize=4)
def _compiled(cfg: clip_vision.CLIPVisionConfig) -> Callable:
    return jit(lambda params, pixels: clip_vision.embed_images(params, cfg, pixels))


EXTRACTORS: dict[str, Callable[[Path], Extractor]] = {"clip": _clip}
