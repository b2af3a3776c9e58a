"""Settings of the causal video VAE."""

from dataclasses import dataclass, field
from typing import Literal

from soraxla.core.config import NEW
from soraxla.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Widths of the VAE and the statistics that normalise its latents.

    Attributes:
        base_width: channels at full resolution (96 in Wan 2.1, 160 in 2.2); 0 makes a
            linear VAE without convolutions.
        latent_channels: channels of the latents.
        multipliers: channels of each stage, as multiples of `base_width`.
        res_blocks: residual blocks per encoder stage; a decoder stage has one more. In
            a patched VAE it may be one number for each stage.
        temporal_down: for each stage but the last, True if it halves the frame rate.
        residual: stages add their resampled input to their output, as in Wan 2.2.
        decoder_width: the decoder's `base_width` (256 in Wan 2.2); None takes the
            encoder's.
        pixel_patch: side of the squares of pixels that are folded into channels, and
            unfolded after the decoder; 2 in Wan 2.2.
        frame_patch: frames that are folded into channels with the pixels, which makes
            a patched VAE (`patched.py`); None folds no frames.
        linear: makes the encoder a linear map of the pixels that a latent covers. The
            decoder is another linear map plus convolutions that start at 0.
        latent_mean: mean of each latent channel, measured in training.
        latent_std: standard deviation of each latent channel, measured in training.
        dtype: of activations and matmuls; parameters are always fp32.
    """

    base_width: int = 96
    latent_channels: int = 16
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int | tuple[int, ...] = 2
    temporal_down: tuple[bool, ...] = (False, True, True)
    residual: bool = False
    decoder_width: int | None = None
    pixel_patch: int = 1
    frame_patch: int | None = field(default=None, metadata={NEW: True})
    linear: bool = False
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        if len(self.multipliers) != len(self.temporal_down) + 1:
            raise UserError(
                f"VAE multipliers {self.multipliers} with temporal_down "
                f"{self.temporal_down}: expected one multiplier more; change one"
            )
        if self.base_width < (0 if self.linear else 1):
            raise UserError(
                f"VAE base_width is {self.base_width}: expected ≥ 1, or 0 for a linear "
                "one without convolutions; change it"
            )
        for name in ("latent_mean", "latent_std"):
            if len(getattr(self, name)) not in (0, self.latent_channels):
                raise UserError(
                    f"VAE {name} has {len(getattr(self, name))} numbers: expected one "
                    f"a latent channel, {self.latent_channels}, or none"
                )
        for name in ("decoder_width", "pixel_patch", "frame_patch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"VAE {name} is {value}: expected ≥ 1; change it")
        if self.patched:
            self._check_patched()
        elif not isinstance(self.res_blocks, int):
            raise UserError(
                f"VAE res_blocks is {self.res_blocks}: expected one number without a "
                "frame_patch; change it"
            )
        if self.residual:
            self._check_shortcuts()

    def _check_patched(self) -> None:
        """Raises UserError unless the settings are those of a patched VAE."""
        for name in ("linear", "residual", "temporal_down", "decoder_width"):
            value = getattr(self, name)
            if any(value) if isinstance(value, tuple) else value:
                raise UserError(
                    f"VAE {name} is {value} with a frame_patch of {self.frame_patch}: "
                    "expected none of it; leave one of them out"
                )
        if len(self.stage_blocks) != len(self.multipliers):
            raise UserError(
                f"VAE res_blocks is {self.res_blocks}: expected one number, or "
                f"{len(self.multipliers)}, one per stage; change it"
            )

    def _check_shortcuts(self) -> None:
        """Raises UserError unless shortcuts average or copy whole channels."""
        m = self.multipliers
        factors = [t * s**2 for t, s in self.strides] + [1]
        down = [(1, *m)[i] * factors[i] % m[i] for i in range(len(m))]
        up = [m[i] * factors[i - 1] % m[i + 1] for i in range(1, len(m) - 1)]
        if any(down + up):
            raise UserError(
                f"VAE multipliers {self.multipliers} with temporal_down "
                f"{self.temporal_down}: expected residual stages whose shortcuts are "
                "whole means or copies of channels; use (1, 2, 4, 4)"
            )

    @property
    def patched(self) -> bool:
        """True where frames become channels first (`patched.py`)."""
        return self.frame_patch is not None

    @property
    def stage_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each encoder stage."""
        if isinstance(self.res_blocks, int):
            return (self.res_blocks,) * len(self.multipliers)
        return self.res_blocks

    @property
    def strides(self) -> list[tuple[int, int]]:
        """(frames, pixels) that become one after each stage but the last."""
        return [(2 if temporal else 1, 2) for temporal in self.temporal_down]

    @property
    def spatial(self) -> int:
        """Pixels a latent position covers on each side."""
        return self.pixel_patch * 2 ** len(self.temporal_down)

    @property
    def temporal(self) -> int:
        """Frames a latent after the first covers."""
        return (self.frame_patch or 1) * 2 ** sum(self.temporal_down)
