"""Films as cameras, browsers, recorders and broken downloads make them.

Every frame shows its number as ten vertical bars, black for 0 and white for 1, the
highest bit first. `number` reads it after any codec and scaling.
"""

from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition

_BITS = 10


def bars(n, height=64, width=80):
    """A picture of the number n, uint8 (height, width, 3)."""
    bit = _BITS - 1 - np.arange(width) * _BITS // width
    row = np.where(n >> bit & 1, 235, 20).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number(pixels):
    """The number that a frame shows."""
    centre = ((np.arange(_BITS) + 0.5) * pixels.shape[1] / _BITS).astype(int)
    on = pixels[:, centre].mean((0, 2)) > 127.5
    return int(sum(1 << (_BITS - 1 - i) for i, v in enumerate(on) if v))


def film(
    path,
    times,
    *,
    base=1000,
    codec="libx264",
    container=None,
    options=None,
    title=None,
    draw=bars,
    muxer=None,
    **context,
):
    """A film whose frame i shows draw(i) at times[i] / base seconds."""
    with av.open(str(path), "w", format=container, options=muxer or {}) as file:
        file.metadata.update({"title": title} if title else {})
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, base)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(i), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, base)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def without_default_duration(path):
    """Turns Matroska's DefaultDuration into a Void, as browsers and phones write it."""
    data = path.read_bytes()
    i = data.find(bytes.fromhex("23e383"))
    length = data[i + 3] & 0x7F
    void = b"\xec" + bytes([0x80 | (2 + length)]) + bytes(2 + length)
    assert i >= 0
    path.write_bytes(data[:i] + void + data[i + 4 + length :])


def two_streams(path):
    """A preview, numbers from 500, and the default stream of 160x96, from 0."""
    with av.open(str(path), "w") as file:
        streams = []
        for height, width in ((32, 40), (96, 160)):
            stream = file.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            streams.append(stream)
        streams[0].disposition = Disposition(0)
        streams[1].disposition = Disposition.default
        for i in range(5):
            for stream, start in zip(streams, (500, 0), strict=True):
                pixels = bars(i + start, stream.height, stream.width)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode(None))


def flat(path, luma, *, matrix, primaries, transfer):
    """A film of two grey 10-bit frames of one luma, with its colour tags."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries = matrix, primaries
        context.color_trc, context.color_range = transfer, 1
        for i in range(2):
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            for n, plane in enumerate(frame.planes):
                value = np.full(plane.buffer_size // 2, 512 if n else luma, np.uint16)
                plane.update(value.tobytes())
            frame.colorspace, frame.color_range = matrix, 1
            frame.pts, frame.time_base = i, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def noisy(seed=0):
    """A drawing of numbers over moving noise, which fills every part of a film."""
    rng = np.random.default_rng(seed)
    soft = rng.integers(0, 60, (64, 80, 3))

    def draw(i):
        grain = rng.integers(0, 12, (64, 80, 3))
        return (bars(i) * 0.7 + np.roll(soft, i, 1) + grain).clip(0, 255).astype("u1")

    return draw


def with_hole(path):
    """A copy of a film, a tenth of whose bytes are zero from the middle on."""
    data = bytearray(path.read_bytes())
    start, stop = len(data) * 50 // 100, len(data) * 60 // 100
    data[start:stop] = bytes(stop - start)
    copy = path.with_name(f"hole_{path.name}")
    copy.write_bytes(data)
    return copy
