"""Writing of clips and pictures.

A file is written under a temporary name in the same folder and renamed at the end, so a
file under the requested name is always complete. A remote file is uploaded at the end.
"""

import contextlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import av.codec
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from soraxla.core.errors import UserError
from soraxla.core.paths import Place, is_remote, place


@dataclass(frozen=True, kw_only=True)
class _Film:
    container: str
    codec: str
    options: dict[str, str]
    muxer: dict[str, str]


_FILMS = {
    ".mp4": _Film(
        container="mp4",
        codec="libx264",
        options={"crf": "18", "preset": "medium"},
        muxer={"movflags": "+faststart"},
    ),
    ".webm": _Film(
        container="webm",
        codec="libvpx-vp9",
        options={"crf": "24", "b": "0", "cpu-used": "4", "row-mt": "1"},
        muxer={},
    ),
    # Whole frames: the encoder would compare palette indices to find what changed,
    # although every frame has another palette.
    ".gif": _Film(
        container="gif",
        codec="gif",
        options={"gifflags": "-offsetting-transdiff"},
        muxer={},
    ),
    # libwebp, since libwebp_anim merges similar frames.
    ".webp": _Film(
        container="webp",
        codec="libwebp",
        options={"quality": "90"},
        muxer={"loop": "0"},
    ),
}
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
# For encoders whose own default shows: about the quality of the usual ones.
_QUALITY = {
    "libx265": {"crf": "20"},
    "libsvtav1": {"crf": "22"},
    "libvpx": {"crf": "8", "b": "8M"},
    "mpeg4": {"flags": "+qscale", "global_quality": str(118 * 2)},  # 118 is q = 1
}
_ANY_SIZE = ("libvpx", "libvpx-vp9", "libaom-av1", "libwebp")  # 4:2:0 of odd sizes
_HEVC = ("libx265", "hevc_nvenc", "hevc_qsv", "hevc_vaapi", "hevc_videotoolbox")
_BT709 = 1  # the code of its primaries and of its transfer function, ITU-T H.273
_GIF_MAX_FPS = 50  # players slow down GIF frames shorter than 2/100 s


def check_writable(path: str | os.PathLike[str], *, codec: str | None = None) -> None:
    """Raises if `write_video(path, …, codec=codec)` could not succeed.

    It leaves no file behind; call it before long work.

    Raises:
        UserError: the suffix or the encoder is unknown.
        OSError: the folder is missing or read-only.
    """
    path = place(path)
    suffix = path.suffix.lower()
    known = ", ".join((*_FILMS, *PICTURES))
    if suffix not in _FILMS and suffix not in PICTURES:
        raise UserError(f"{path}: unknown suffix {suffix!r}; use one of {known}")
    if codec is not None:
        if suffix not in (".mp4", ".webm"):
            raise UserError(f"{path}: a codec can be chosen for .mp4 and .webm only")
        try:
            kind = av.Codec(codec, "w").type
        except av.codec.codec.UnknownCodecError:
            kind = ""
        if kind != "video":
            raise UserError(
                f"{path}: unknown video encoder {codec!r}; use one of FFmpeg's"
            )
    if is_remote(path):
        _check_store(path)
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist")
    trial = _temporary(path)
    try:  # mode bits do not tell of root, read-only mounts and quotas
        trial.touch()
        trial.unlink()
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)  # raises if the name is too long
    except OSError as error:
        raise UserError(
            f"{path}: cannot write in {folder} ({error.strerror})"
        ) from None
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")


def _check_store(path: Place) -> None:
    """Raises UserError if no object can be written beside a remote path."""
    trial = path.with_name(f".{path.name}.tmp")
    trial.write_bytes(b"")
    trial.unlink()


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: float | int,
    *,
    codec: str | None = None,
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes uint8 RGB frames as .mp4, .webm, .gif, .webp, .png or .jpg.

    The file has exactly the size and number of the frames; repeated frames are kept.
    Every player shows H.264 in 4:2:0, which needs even sides: an odd side makes it
    4:4:4. `codec` names another FFmpeg encoder for .mp4 or .webm. A picture takes one
    frame and ignores `fps`. `frames` may be a generator; it is consumed frame by frame.
    `about` holds tags, such as "description", for the formats that have some; .gif and
    .webp leave them out.

    Raises:
        UserError: there are no frames, or frames of several sizes; the rate is not
            positive; the encoder does not take the size; or as `check_writable`.
        OSError: as `check_writable`.
    """
    path = place(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="soraxla_") as folder:
            local = Path(folder, path.name)
            write_video(local, frames, fps, codec=codec, about=about)
            path.write_bytes(local.read_bytes())
        return
    check_writable(path, codec=codec)
    suffix, temporary = path.suffix.lower(), _temporary(path)
    checked = _same_size(path, frames)
    try:
        if suffix in PICTURES:
            _write_picture(path, temporary, checked, PICTURES[suffix], about)
        else:
            _write_film(path, temporary, checked, fps, codec, about)
        os.replace(temporary, path)
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    # A name may have all 255 bytes that the system allows, a temporary one no more.
    part, check = path.name[:40], zlib.crc32(os.fsencode(path.name))
    return path.with_name(f".{part}.{check:08x}.{os.getpid()}.tmp")


def _same_size(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise UserError(
                f"{path}: frame {index} is {frame.dtype} {frame.shape}, "
                "expected uint8 (H, W, 3)"
            )
        if shape is not None and frame.shape != shape:
            raise UserError(f"{path}: frame {index} is {frame.shape}, expected {shape}")
        shape = frame.shape
        yield frame
    if shape is None:
        raise UserError(f"{path}: no frames to write; expected at least one")


def _write_picture(
    path: Path,
    temporary: Path,
    frames: Iterator[np.ndarray],
    kind: str,
    about: Mapping[str, str],
) -> None:
    frame = next(frames)
    if next(frames, None) is not None:
        raise UserError(f"{path}: a {kind} holds one frame; write a clip as .mp4")
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {"quality": 95, "comment": "; ".join(about.values()).encode()}
    elif about:
        options = {"pnginfo": PngInfo()}
        for name, text in about.items():
            options["pnginfo"].add_itxt(name.title(), text)
    try:
        Image.fromarray(frame).save(temporary, format=kind, **options)
    except (OSError, ValueError) as error:  # a full disk, a side over the format's
        raise UserError(f"{path}: cannot be written ({error})") from None


def _write_film(
    path: Path,
    temporary: Path,
    frames: Iterator[np.ndarray],
    fps: float | int,
    codec: str | None,
    about: Mapping[str, str],
) -> None:
    film = _FILMS[path.suffix.lower()]
    limit = _GIF_MAX_FPS if film.codec == "gif" else 1000
    if not 0 < fps <= limit:
        raise UserError(f"{path}: fps is {fps}, expected more than 0, up to {limit}")
    rate = _rate(fps)
    first = next(frames)
    height, width = first.shape[:2]
    name = codec or film.codec
    with av.open(
        f"file:{temporary}", "w", format=film.container, options=film.muxer
    ) as container:
        container.metadata.update(about)
        options = _QUALITY.get(name, {}) if codec else film.options
        try:
            stream = container.add_stream(name, rate=rate, options=options)
        except ValueError as error:
            raise UserError(f"{path}: cannot be written ({error})") from None
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = _pixel_format(path, name, height, width)
        stream.codec_context.time_base = 1 / rate
        if film.container in ("mp4", "webm"):
            stream.codec_context.colorspace = Colorspace.ITU709
            stream.codec_context.color_range = ColorRange.MPEG
            stream.codec_context.color_primaries = _BT709
            stream.codec_context.color_trc = _BT709
        if film.container == "mp4" and stream.codec_context.codec.name in _HEVC:
            stream.codec_context.codec_tag = "hvc1"  # Apple plays no other
        for index, pixels in enumerate(_chain(first, frames)):
            frame = _encodable(pixels, stream)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _rate(fps: float | int) -> Fraction:
    """Returns a frame rate as a fraction: 29.97 is television's 30000/1001."""
    television = Fraction(round(fps * 1.001) * 1000, 1001)
    if television > 20 and abs(fps - television) < 0.001:
        return television
    return Fraction(fps).limit_denominator(1001)


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _pixel_format(path: Path, codec: str, height: int, width: int) -> str:
    formats = [f.name for f in av.Codec(codec, "w").video_formats or ()]
    odd = (height % 2 or width % 2) and codec not in _ANY_SIZE
    wanted = "pal8" if codec == "gif" else "yuv444p" if odd else "yuv420p"
    if wanted in formats:
        return wanted
    if odd or not formats:
        raise UserError(
            f"{path}: {codec} cannot write {width}x{height}; use even sides or libx264"
        )
    return formats[0]


def _encodable(pixels: np.ndarray, stream: av.VideoStream) -> av.VideoFrame:
    """Returns an RGB frame in the stream's pixel format."""
    if stream.pix_fmt == "pal8":  # every frame has another palette
        image = Image.fromarray(pixels).quantize(256)
        palette = np.zeros((256, 4), np.uint8)
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[:, 0], palette[: len(colours), 1:] = 255, colours
        planes: Any = (np.asarray(image), palette)  # PyAV's annotation lacks pal8
        return av.VideoFrame.from_ndarray(planes, format="pal8")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    tagged = stream.codec_context.colorspace == Colorspace.ITU709
    return frame.reformat(
        format=stream.pix_fmt,
        dst_colorspace=Colorspace.ITU709 if tagged else Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
    )
