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

from soraxla.assets import worlds_probe as worlds_probe_folder
from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.evals.replicas import Replicas
from soraxla.files.hashing import sha256_of_tree
from soraxla.files.hub import local
from soraxla.models.text import clip_vision
from soraxla.models.vision import (
    dinov2,
    i3d,
    inception,
    videomae,
    vjepa2,
    worlds_probe,
)
from soraxla.parallel.compiler import encoder_dtype, jit

_BATCH = 16  # frames

# Files that soraxla.tools.convert_features makes folders of.
_PICKLES = {
    "inception": "pt_inception-2015-12-05-6726825d.pth of pytorch-fid",
    "i3d": "i3d_torchscript.pt of StyleGAN-V",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """An extractor: a network of single frames, or of videos, each one sample.

    Attributes:
        sha256: of the weights.
        frames: those of a video; None for a network of single frames.
        preprocess: turns frames into the network's pixels.
        network: compiled; turns parameters and a batch of pixels into features.
    """

    name: str
    sha256: str
    dimension: int
    frames: int | None = None
    preprocess: Callable[[Sequence[np.ndarray]], np.ndarray] = field(repr=False)
    network: Callable[[PyTree, np.ndarray], Any] = field(repr=False)
    replicas: Replicas

    def __call__(
        self, frames: UInt8[np.ndarray, "t h w 3"]
    ) -> Float[np.ndarray, "n d"]:
        """Returns a row of each frame, or the one row of a video."""
        if self.frames is not None:
            pixels = self.preprocess(frames)  # pyright: ignore[reportArgumentType]
            return np.asarray(self.network(self.replicas.here(), pixels[None]))
        found, params = [], self.replicas.here()
        for first in range(0, len(frames), _BATCH):
            pixels = self.preprocess(list(frames[first : first + _BATCH]))
            filled = np.zeros((_BATCH, *pixels.shape[1:]), np.float32)
            filled[: len(pixels)] = pixels
            found.append(np.asarray(self.network(params, filled))[: len(pixels)])
        return np.concatenate(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A published network.

    Attributes:
        load: returns parameters and settings of a folder.
        preprocess: turns frames and settings into pixels.
        apply: turns parameters, settings and a batch of pixels into features.
        dimension: of the features, by settings.
        frames: those of a video, by settings; None for a network of single frames.
        convolves: True for a network of convolutions.
        shipped: returns the folder of weights that soraxla contains, if any.
    """

    load: Callable[[Path], tuple[PyTree, Any]]
    preprocess: Callable[[Any, Any], np.ndarray]
    apply: Callable[[PyTree, Any, Any], Any]
    dimension: Callable[[Any], int] = lambda cfg: cfg.hidden_size
    frames: Callable[[Any], int] | None = None
    convolves: bool = False
    shipped: Callable[[], Path] | None = None


def load_features(spec: str) -> Features:
    """Returns the extractor of NAME:FOLDER, such as "clip:weights/clip-vit-base".

    "worlds" without a folder has the weights that soraxla contains.

    Raises:
        UserError: an unknown name, or no folder of such weights.
    """
    name, _, place = spec.partition(":")
    if name not in EXTRACTORS:
        raise UserError(f"unknown features {name!r}{nearest(name, EXTRACTORS)}")
    network = EXTRACTORS[name]
    if not place and network.shipped is None:
        raise UserError(
            f"features {spec!r} name no weights, expected {name}:FOLDER, such as "
            f"{name}:weights/{name}, or {name}:hf:OWNER/NAME"
        )
    folder = network.shipped() if network.shipped and not place else local(place)
    if name in _PICKLES and not (folder / "config.json").is_file():
        file = _PICKLES[name]
        raise UserError(
            f"{folder}: holds no weights of {name}; download {file} and convert it, "
            f"where torch is installed, with `python -m soraxla.tools.convert_features "
            f"{name} {file.split()[0]} {folder}`"
        )
    params, cfg = network.load(folder)
    return Features(
        name=name,
        sha256=sha256_of_tree(params),
        dimension=network.dimension(cfg),
        frames=None if network.frames is None else network.frames(cfg),
        preprocess=lambda frames: network.preprocess(frames, cfg),
        network=_compiled(network, cfg),
        replicas=Replicas(params),
    )


@functools.lru_cache(maxsize=8)
def _compiled(network: Network, cfg: Any) -> Callable:
    def features(params: PyTree, pixels: Any) -> Any:
        return network.apply(params, cfg, pixels)

    return jit(features, convolves=network.convolves)


EXTRACTORS = {
    "clip": Network(
        load=lambda folder: clip_vision.load(folder, encoder_dtype()),
        preprocess=lambda frames, cfg: clip_vision.preprocess(frames, cfg.image_size),
        apply=clip_vision.embed_images,
        dimension=lambda cfg: cfg.projection_dim,
    ),
    "inception": Network(
        load=inception.load,
        preprocess=lambda frames, cfg: inception.preprocess(frames),
        apply=lambda params, cfg, pixels: inception.features(params, pixels),
        dimension=inception.dimension,
        convolves=True,
    ),
    "i3d": Network(
        load=i3d.load,
        preprocess=lambda video, cfg: i3d.preprocess(video),
        apply=lambda params, cfg, pixels: i3d.features(params, pixels),
        dimension=i3d.dimension,
        frames=lambda cfg: i3d.FRAMES,
        convolves=True,
    ),
    "dinov2": Network(
        load=dinov2.load,
        preprocess=lambda frames, cfg: dinov2.preprocess(frames),
        apply=dinov2.embed_images,
    ),
    "videomae": Network(
        load=videomae.load,
        preprocess=videomae.preprocess,
        apply=videomae.embed_video,
        frames=lambda cfg: cfg.num_frames,
    ),
    "vjepa2": Network(
        load=vjepa2.load,
        preprocess=vjepa2.preprocess,
        apply=vjepa2.embed_video,
        frames=lambda cfg: vjepa2.FRAMES,
    ),
    "worlds": Network(
        load=worlds_probe.load,
        preprocess=lambda video, cfg: worlds_probe.preprocess(video),
        apply=lambda params, cfg, pixels: worlds_probe.features(params, pixels),
        dimension=worlds_probe.dimension,
        frames=lambda cfg: worlds_probe.FRAMES,
        convolves=True,
        shipped=worlds_probe_folder,
    ),
}
