"""The encoders that `prepare` receives, and checks of their results."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data_pipelines import transforms
from data_pipelines.encode_conditions import EncodeVideo, encode_conditions
from soraxla.core.errors import UserError

EncodeText = Callable[[list[str]], list[Float[np.ndarray, "m e"]]]


class Unreadable(Exception):
    """A sample of the source that must be skipped, with the reason."""


@dataclass(frozen=True)
class Encoders:
    video: EncodeVideo
    text: EncodeText
    spatial: int

    def one_text(self, caption: str) -> np.ndarray:
        embedding = np.asarray(self.text([caption])[0])
        if embedding.ndim != 2 or not len(embedding):
            raise UserError(
                f"the text encoder made {embedding.shape} of {caption!r}, expected "
                "(M, E) with M of at least 1"
            )
        return embedding

    def latents(self, piece: transforms.Piece) -> np.ndarray:
        latents = np.asarray(self.video(piece.frames))
        grid = (
            1 + (len(piece.frames) - 1) // transforms.TEMPORAL,
            piece.box.height // self.spatial,
            piece.box.width // self.spatial,
        )
        if latents.ndim != 4 or latents.shape[:3] != grid:
            raise UserError(
                f"the VAE made {latents.shape} of {piece.frames.shape}, expected "
                f"({', '.join(map(str, grid))}, C)"
            )
        _check_finite(latents)
        return latents

    def conditions(self, piece: transforms.Piece, uid: str) -> dict[str, np.ndarray]:
        cell = self.spatial * transforms.PATCH[1]
        made = encode_conditions(piece.frames, self.video, uid, cell)
        for tensor in made.values():
            _check_finite(tensor)
        return made


def _check_finite(latents: np.ndarray) -> None:
    if not np.isfinite(latents).all():
        raise Unreadable("its latents are not finite")
