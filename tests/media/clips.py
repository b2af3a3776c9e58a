"""Clips and films for the tests of media."""

from fractions import Fraction

import av
import numpy as np


def ramps(frames, height, width):
    """A clip whose every frame is a smooth picture, brighter with time."""
    y, x = np.mgrid[:height, :width]
    t = np.arange(frames)[:, None, None]
    red, green = 255 * y / height + 0 * t, 255 * x / width + 0 * t
    blue = 0 * x + 255 * t / max(frames, 2)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def encode(path, frames, times, *, base=1000, rotation=0):
    """A film with a frame at each of `times`, in units of 1 / base s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, base)
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def numbered(count, size=32):
    """Frames told apart by their brightness: number n is 8 n."""
    return np.stack([np.full((size, size, 3), 8 * n, np.uint8) for n in range(count)])


def numbers(frames):
    return [round(float(frame.mean()) / 8) for frame in frames]
