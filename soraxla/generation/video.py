"""Generated videos, which a notebook shows and a file keeps."""

import base64
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from soraxla.generation.request import Request
from soraxla.media.write import write_video

_SHOWN = 256  # pixels of a side at least, in a notebook


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """A generated video, or an image of one frame, with the request it answers.

    The last expression of a notebook cell is shown: a film plays in a loop.
    """

    frames: UInt8[np.ndarray, "t h w 3"] = field(repr=False)
    fps: float
    request: Request

    def _repr_html_(self) -> str:
        scale = max(1, -(-_SHOWN // max(self.frames.shape[1:3])))
        width = f'width="{scale * self.frames.shape[2]}"'
        if len(self.frames) == 1:
            return f'<img {width} src="data:image/png;base64,{self._base64(".png")}">'
        source = f"data:video/mp4;base64,{self._base64('.mp4')}"
        return f'<video {width} controls autoplay loop muted src="{source}"></video>'

    def _base64(self, suffix: str) -> str:
        """Returns the file that `save` would write, as text."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"video{suffix}"
            save(self, path)
            return base64.b64encode(path.read_bytes()).decode("ascii")


def save(video: Video, path: str | os.PathLike[str]) -> None:
    """Writes a video as .mp4, .webm, .gif or .webp, one frame as .png or .jpg.

    The tags of .mp4, .webm, .png and .jpg hold the prompt.

    Raises:
        UserError: an unknown suffix, several frames for a picture, or a size or rate
            that the format does not take.
        OSError: the folder is missing or cannot be written.
    """
    write_video(path, video.frames, video.fps, about=video.request.about())
