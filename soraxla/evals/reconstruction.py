"""The clips of a set as a VAE reconstructs them."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from soraxla.checkpoints.load import load_vae
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.evals.clip_sets import ClipSet
from soraxla.files.hashing import sha256_of_tree
from soraxla.generation.vae_streaming import decode_clip, encode_clip


@dataclass(frozen=True, kw_only=True)
class ReconstructedSet(ClipSet):
    """A set whose clips are read through a VAE: the posterior's mean, decoded."""

    vae: LoadedModel = field(repr=False)

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the files' bytes and of the VAE's weights."""
        return f"{super().sha256}+{sha256_of_tree(self.vae.params)}"

    def read(self, name: str) -> UInt8[np.ndarray, "t h w 3"]:
        """Returns the frames of a clip through the VAE.

        Edges are repeated up to whole latents, and cut off again.

        Raises:
            UserError: the file is damaged.
        """
        frames, cfg = super().read(name), self.vae.model
        t, h, w, _ = frames.shape
        more = -(t - 1) % cfg.temporal, -h % cfg.spatial, -w % cfg.spatial
        whole = np.pad(frames, [*((0, n) for n in more), (0, 0)], mode="edge")
        latents = encode_clip(self.vae.params, cfg, whole)
        return decode_clip(self.vae.params, cfg, latents)[:t, :h, :w]


def reconstructed(clips: ClipSet, vae: Path) -> ReconstructedSet:
    """Returns the reconstructions of a set by the VAE of a folder.

    Raises:
        UserError: as `soraxla.checkpoints.load.load_vae`.
    """
    return ReconstructedSet(folder=clips.folder, files=clips.files, vae=load_vae(vae))
