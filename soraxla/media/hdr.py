"""Conversion of high dynamic range, PQ and HLG in BT.2020, to sRGB.

White paper is 203 cd/m² in both (ITU-R BT.2408) and becomes 255; what is brighter, such
as the sun or a lamp, is clipped to white, as an ordinary camera does.
"""

import functools

import numpy as np
from jaxtyping import UInt8, UInt16

PQ, HLG = 16, 18  # codes of the transfer function, ITU-T H.273
_WHITE = 203.0  # cd/m²
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # BT.2020
_TO_BT709 = np.array(
    [
        [1.6605, -0.5876, -0.0728],
        [-0.1246, 1.1329, -0.0083],
        [-0.0182, -0.1006, 1.1187],
    ],
    np.float32,
)


def to_srgb(
    pixels: UInt16[np.ndarray, "h w 3"], transfer: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns 16-bit BT.2020 RGB of a transfer function, PQ or HLG, as sRGB."""
    light = _light(transfer)[pixels]
    if transfer == HLG:  # scene light: a display of 1000 cd/m² raises its luminance
        luminance = (light @ _LUMINANCE)[..., None]
        light *= 1000 / _WHITE * luminance**0.2
    light = np.clip(light @ _TO_BT709.T, 0, 1)
    return _srgb()[np.rint(light * 65535).astype(np.uint16)]


@functools.cache
def _light(transfer: int) -> np.ndarray:
    """Returns the linear light of each 16-bit value: 1 is white (PQ) or full (HLG)."""
    value = np.arange(65536) / 65535
    if transfer == PQ:
        root = value ** (32 / 2523)
        ratio = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return (ratio ** (8192 / 1305) * 10_000 / _WHITE).astype(np.float32)
    bright = (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(value <= 0.5, value**2 / 3, bright).astype(np.float32)


@functools.cache
def _srgb() -> np.ndarray:
    light = np.arange(65536) / 65535
    power = 1.055 * light ** (1 / 2.4) - 0.055
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, power)).astype(
        np.uint8
    )
