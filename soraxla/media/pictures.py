"""Reading of pictures and animated pictures, with Pillow."""

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from soraxla.core.errors import UserError
from soraxla.media.timing import Timed

PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20  # profiles of printers exceed Pillow's 1 MB
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "AVIF")
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # MPO and TIFF hold separate pictures
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@contextlib.contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image | None]:
    """Yields the picture in a file, by its content, or None if it holds none.

    Raises:
        UserError: the picture is damaged, too large, or HEIC.
    """
    try:
        try:
            im = Image.open(path, formats=_FORMATS)
        except UnidentifiedImageError:
            im = None
        if im is None:
            _refuse_heic(path)
            yield None
        else:
            with im:
                yield im
    except Image.DecompressionBombError:
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
        raise UserError(f"{path}: is larger than {limit}") from None
    except MemoryError:
        raise too_large(path) from None
    except UserError:
        raise
    # These are what Pillow raises for damaged files.
    except (
        OSError,
        SyntaxError,
        EOFError,
        IndexError,
        ValueError,
        struct.error,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UserError(f"{path}: is corrupt or truncated ({reason})") from None


def _refuse_heic(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in _HEIC:
        raise UserError(f"{path}: is HEIC, which cannot be read; convert it to JPEG")


def too_large(path: Path) -> UserError:
    """Returns the error for a file that does not fit into memory."""
    return UserError(f"{path}: does not fit into memory; make it smaller")


def picture_size(im: Image.Image) -> tuple[int, int]:
    """Returns (height, width) after the EXIF rotation."""
    if im.format == "TIFF":  # Pillow rotates it when it decodes it
        im.load()
    height, width = im.height, im.width
    return (width, height) if _orientation(im) in _SIDEWAYS else (height, width)


def frame_count(im: Image.Image) -> int:
    """Returns the number of frames of an animation, 1 for a picture."""
    return getattr(im, "n_frames", 1) if im.format in _ANIMATED else 1


def durations(im: Image.Image) -> list[float]:
    """Returns how many seconds each frame of an animated picture is shown."""
    seconds = []
    for index in range(frame_count(im)):
        im.seek(index)
        im.load()  # WebP states a frame's duration only after it is decoded
        # Browsers show a frame without a duration for a tenth of a second.
        seconds.append((im.info.get("duration") or 100) / 1000)
    return seconds


def animation(im: Image.Image, seconds: list[float]) -> Iterator[Timed]:
    """Yields the frames of an animated picture, each shown for its `seconds`."""
    start = 0.0
    for index, duration in enumerate(seconds):
        im.seek(index)
        yield Timed(start, start + duration, rgb(im))
        start += duration


def rgb(im: Image.Image) -> np.ndarray:
    """Converts any mode to uint8 sRGB (H, W, 3).

    The EXIF rotation and the colour profile are applied, and transparent pixels are
    blended over white.
    """
    im.load()
    turn = _TURNS.get(_orientation(im))
    im = im if turn is None else im.transpose(turn)
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):
        grey = np.nan_to_num(np.asarray(im, np.float64))
        # Floats in [0, 1] span black to white; wide integers have 16 bits.
        scale = 255 if im.mode == "F" and grey.max() <= 1 else 1
        wide = im.mode.startswith("I;16") or (im.mode == "I" and grey.max() > 255)
        scale = 1 / 257 if wide else scale
        grey = np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    profile = im.info.get("icc_profile")
    alpha = im.convert("RGBA").getchannel("A") if im.has_transparency_data else None
    im = im if im.mode in ("L", "CMYK") else im.convert("RGB")
    if profile:
        im = _managed(im, profile)
    im = im.convert("RGB")
    if alpha is not None:
        white = Image.new("RGBA", im.size, "white")
        im.putalpha(alpha)
        im = Image.alpha_composite(white, im).convert("RGB")
    return np.array(im)


def _orientation(im: Image.Image) -> int:
    # Only this tag is read: tags of a wrong type are common and do not matter.
    try:
        return im.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1


def _managed(im: Image.Image, profile: bytes) -> Image.Image:
    """Returns a picture of a colour profile in sRGB; a damaged profile is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(im, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return im
    return im if shown is None else shown
