"""Pictures as phones, scanners and editors write them."""

import io
import struct

import numpy as np
from PIL import Image

_TURN = (0x0112, 3, 1, b"\0\x06\0\0")  # EXIF orientation 6
_RATIONAL = struct.pack(">II", 72, 1)
_AT = struct.pack(">I", 8 + 2 + 12 * 2 + 4)  # the place of what follows two entries
_GPS = struct.pack(">H", 1)

# Entries of EXIF: (tag, type, count, four bytes), and the bytes that follow them.
EXIF = {
    "right": ((0x011A, 5, 1, _AT), _RATIONAL),
    "resolution_ascii": ((0x011A, 2, 3, b"72\0\0"), b""),
    "resolution_byte": ((0x011A, 1, 1, b"\x48\0\0\0"), b""),
    "make_rational": ((0x010F, 5, 1, _AT), _RATIONAL),
    "latitude_ascii": (
        (0x8825, 4, 1, _AT),
        _GPS + struct.pack(">HHI", 2, 2, 3) + b"12\0\0" + bytes(4),
    ),
    "version_ascii": (
        (0x8825, 4, 1, _AT),
        _GPS + struct.pack(">HHI", 0, 2, 3) + b"22\0\0" + bytes(4),
    ),
}


def turned_jpeg(path, name):
    """A picture stored 96x64 and shown 64x96, with an entry of `EXIF` as well."""
    entry, following = EXIF[name]
    plain = io.BytesIO()
    y, x = np.mgrid[:64, :96]
    ramp = np.stack([x * 2, y * 3, 0 * x], -1).astype(np.uint8)
    Image.fromarray(ramp).save(plain, "JPEG")
    ifd = struct.pack(">H", 2)
    for tag, kind, count, value in sorted([_TURN, entry]):
        ifd += struct.pack(">HHI", tag, kind, count) + value
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + ifd + bytes(4) + following
    data = plain.getvalue()
    length = struct.pack(">H", len(exif) + 2)
    path.write_bytes(data[:2] + b"\xff\xe1" + length + exif + data[2:])


SRGB = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def profile(red, green, blue):
    """An ICC profile, version 2, of three primaries and gamma 2.2."""

    def fixed(*values):
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    def xyz(value):
        return b"XYZ " + bytes(4) + fixed(*value)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [
        (b"desc", name),
        (b"cprt", b"text" + bytes(4) + b"none\0\0\0\0"),
        (b"wtpt", xyz((0.9642, 1.0, 0.8249))),
        *((b"rXYZ", xyz(red)), (b"gXYZ", xyz(green)), (b"bXYZ", xyz(blue))),
        *((b"rTRC", curve), (b"gTRC", curve), (b"bTRC", curve)),
    ]
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, body in tags:
        body += bytes(-len(body) % 4)
        table += tag + struct.pack(">II", at + len(data), len(body))
        data += body
    head = bytearray(128)
    head[8:12], head[12:24] = b"\x02\x10\0\0", b"mntrRGB XYZ "
    head[36:40], head[68:80] = b"acsp", fixed(0.9642, 1.0, 0.8249)
    head[0:4] = struct.pack(">I", at + len(data))
    return bytes(head) + struct.pack(">I", len(tags)) + table + data
