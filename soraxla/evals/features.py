"""Extractors: published networks whose features compare sets of clips.

A batch has a fixed shape, whatever the length of a clip, so that its digits are fixed.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree, UInt8

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import Extractor
from soraxla.files.hashing import sha256_of_tree
from soraxla.files.hub import local
from soraxla.models.text import clip_vision
from soraxla.models.vision import dinov2, i3d, inception, videomae, vjepa2
from soraxla.parallel.compiler import encoder_dtype, jit

_BATCH = 16  # frames

# Files that soraxla.tools.convert_features makes folders of.
_PICKLES = {
    "inception": "pt_inception-2015-12-05-6726825d.pth of pytorch-fid",
    "i3d": "i3d_torchscript.pt of StyleGAN-V",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameFeatures:
    """A network of single frames.

    Attributes:
        sha256: of the weights.
        preprocess: turns frames into the network's pixels.
        network: compiled; turns parameters and a batch of pixels into features.
    """

    name: str
    sha256: str
    dimension: int
    preprocess: Callable[[Sequence[np.ndarray]], np.ndarray] = field(repr=False)
    network: Callable[[PyTree, np.ndarray], Any] = field(repr=False)
    params: PyTree = field(repr=False)

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"]
    ) -> Float[np.ndarray, "t d"]:
        found = []
        for first in range(0, len(frames), _BATCH):
            pixels = self.preprocess(list(frames[first : first + _BATCH]))
            filled = np.zeros((_BATCH, *pixels.shape[1:]), np.float32)
            filled[: len(pixels)] = pixels
            found.append(np.asarray(self.network(self.params, filled))[: len(pixels)])
        return np.concatenate(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFeatures:
    """A network of videos, each one sample, of `frames` frames."""

    name: str
    sha256: str
    dimension: int
    frames: int
    preprocess: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    network: Callable[[PyTree, np.ndarray], Any] = field(repr=False)
    params: PyTree = field(repr=False)

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"]
    ) -> Float[np.ndarray, "1 d"]:
        pixels = self.preprocess(frames)
        return np.asarray(self.network(self.params, pixels[None]))


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
    folder = local(place)
    if name in _PICKLES and not (folder / "config.json").is_file():
        file = _PICKLES[name]
        raise UserError(
            f"{folder}: holds no weights of {name}; download {file} and convert it, "
            f"where torch is installed, with `python -m soraxla.tools.convert_features "
            f"{name} {file.split()[0]} {folder}`"
        )
    return EXTRACTORS[name](folder)


def _clip(folder: Path) -> Extractor:
    params, cfg = clip_vision.load(folder, encoder_dtype())
    return FrameFeatures(
        name="clip",
        sha256=sha256_of_tree(params),
        dimension=cfg.projection_dim,
        preprocess=lambda frames: clip_vision.preprocess(frames, cfg.image_size),
        network=_compiled(clip_vision.embed_images, cfg),
        params=params,
    )


def _inception(folder: Path) -> Extractor:
    params, cfg = inception.load(folder)
    return FrameFeatures(
        name="inception",
        sha256=sha256_of_tree(params),
        dimension=inception.dimension(cfg),
        preprocess=inception.preprocess,
        network=_convolving(inception.features),
        params=params,
    )


def _i3d(folder: Path) -> Extractor:
    params, cfg = i3d.load(folder)
    return VideoFeatures(
        name="i3d",
        sha256=sha256_of_tree(params),
        dimension=i3d.dimension(cfg),
        frames=i3d.FRAMES,
        preprocess=i3d.preprocess,
        network=_convolving(i3d.features),
        params=params,
    )


def _dinov2(folder: Path) -> Extractor:
    params, cfg = dinov2.load(folder)
    return FrameFeatures(
        name="dinov2",
        sha256=sha256_of_tree(params),
        dimension=cfg.hidden_size,
        preprocess=dinov2.preprocess,
        network=_compiled(dinov2.embed_images, cfg),
        params=params,
    )


def _videomae(folder: Path) -> Extractor:
    params, cfg = videomae.load(folder)
    return VideoFeatures(
        name="videomae",
        sha256=sha256_of_tree(params),
        dimension=cfg.hidden_size,
        frames=cfg.num_frames,
        preprocess=lambda video: videomae.preprocess(video, cfg),
        network=_compiled(videomae.embed_video, cfg),
        params=params,
    )


def _vjepa2(folder: Path) -> Extractor:
    params, cfg = vjepa2.load(folder)
    return VideoFeatures(
        name="vjepa2",
        sha256=sha256_of_tree(params),
        dimension=cfg.hidden_size,
        frames=vjepa2.FRAMES,
        preprocess=lambda video: vjepa2.preprocess(video, cfg),
        network=_compiled(vjepa2.embed_video, cfg),
        params=params,
    )


@functools.lru_cache(maxsize=8)
def _compiled(function: Callable, cfg: Any) -> Callable:
    return jit(lambda params, pixels: function(params, cfg, pixels))


@functools.lru_cache(maxsize=2)
def _convolving(function: Callable) -> Callable:
    return jit(function, convolves=True)


EXTRACTORS: dict[str, Callable[[Path], Extractor]] = {
    "clip": _clip,
    "inception": _inception,
    "i3d": _i3d,
    "dinov2": _dinov2,
    "videomae": _videomae,
    "vjepa2": _vjepa2,
}
