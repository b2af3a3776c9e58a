"""Features of tokens for `prepare --features`, by name."""

import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, PyTree, UInt8
from PIL import Image

from data_pipelines.token_features import (
    SIMULATED_WIDTH,
    SIMULATOR,
    TokenFeatures,
    simulated,
)
from data_pipelines.transforms import PATCH, TEMPORAL
from soraxla.core.errors import UserError
from soraxla.files.hashing import sha256_of_tree
from soraxla.files.hub import local
from soraxla.models.vision import dinov2, vit
from soraxla.models.vision.dinov2 import Dinov2Config
from soraxla.models.vision.resize import IMAGENET_MEAN, IMAGENET_STD
from soraxla.parallel.compiler import jit

DINOV2 = "dinov2"
_FRAMES = 8  # that the network sees at once
_apply = jit(dinov2.patch_states, static_argnames=("cfg", "grid"))


def load_token_features(spec: str, spatial: int) -> TokenFeatures:
    """Returns the features that a specification names.

    Args:
        spec: `simulator`, or `dinov2:FOLDER` for a local folder or hf:ORG/NAME.
        spatial: pixels of a latent's side.

    Raises:
        UserError: an unknown name, or a folder that is not DINOv2's.
    """
    name, _, place = spec.partition(":")
    if spec == SIMULATOR:
        of = functools.partial(simulated, spatial=spatial)
        version = "1"  # there are no weights
        return TokenFeatures(SIMULATOR, version, SIMULATED_WIDTH, of)
    if name == DINOV2 and place:
        params, cfg = dinov2.load(Path(local(place)))
        of = functools.partial(_patches, jax.device_put(params), cfg, spatial=spatial)
        return TokenFeatures(DINOV2, sha256_of_tree(params), cfg.hidden_size, of)
    raise UserError(f"--features {spec}: expected {SIMULATOR} or {DINOV2}:FOLDER")


def _patches(
    params: PyTree,
    cfg: Dinov2Config,
    frames: UInt8[np.ndarray, "f y x 3"],
    ids: np.ndarray | None,
    *,
    spatial: int,
) -> Float[np.ndarray, "t h w d"]:
    """Returns DINOv2's states of the last frame of each latent, one for each token.

    A frame is scaled so that a patch of the network is a token's part of it.
    """
    height, width = (n // (spatial * PATCH[1]) for n in frames.shape[1:3])
    size = width * cfg.patch_size, height * cfg.patch_size
    shown = [
        np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        for frame in frames[::TEMPORAL]
    ]
    pixels = (np.stack(shown).astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    states = []
    for first in range(0, len(pixels), _FRAMES):
        some = pixels[first : first + _FRAMES]
        room = np.zeros((_FRAMES, *some.shape[1:]), np.float32)  # one program a size
        room[: len(some)] = some
        patches = vit.tubelets(room[:, None], 1, cfg.patch_size)
        found = _apply(params, cfg, patches, (height, width))
        states.append(np.asarray(found[: len(some)], np.float32))
    return np.concatenate(states).reshape(len(pixels), height, width, -1)
