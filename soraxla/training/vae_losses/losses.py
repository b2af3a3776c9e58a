"""The terms of the VAE's loss, by name."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial

from jaxtyping import Float, Int

from soraxla.core.errors import UserError
from soraxla.core.types import Array
from soraxla.training.vae_losses.adversarial import Adversarial
from soraxla.training.vae_losses.equivariance import Equivariance
from soraxla.training.vae_losses.kl import KL
from soraxla.training.vae_losses.perceptual import Perceptual
from soraxla.training.vae_losses.pixels import L1
from soraxla.training.vae_losses.term import (
    Clips,
    LossTerm,
    Reconstruction,
    from_start,
    zero,
)


@dataclass(frozen=True, kw_only=True)
class VAELosses:
    """The terms of the VAE's loss; None leaves one out.

    Attributes:
        l1: the error of the pixels.
        kl: the KL divergence of the latents from a standard normal distribution.
        perceptual: the distance of frames in the features of VGG16.
        equivariance: the error of clips decoded from halved latents.
        adversarial: the judgement of a discriminator, which is trained beside the VAE.
    """

    l1: L1 = field(default_factory=L1)
    kl: KL = field(default_factory=KL)
    perceptual: Perceptual | None = None
    equivariance: Equivariance | None = None
    adversarial: Adversarial | None = None

    def __post_init__(self) -> None:
        for name, term in self:
            least = {"frames": 1, "width": 1}
            for setting, value in vars(term).items():
                low = least.get(setting, 0)
                if isinstance(value, int | float) and not low <= value < math.inf:
                    raise UserError(
                        f"step.losses.{name}.{setting} is {value}, expected a number "
                        f"from {low} on"
                    )

    def __iter__(self) -> Iterator[tuple[str, LossTerm]]:
        """Yields the name and the settings of each term that is not left out."""
        for each in fields(self):
            if (term := getattr(self, each.name)) is not None:
                yield each.name, term

    def total(
        self, clips: Clips, made: Reconstruction, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the weighted sum of the terms, and the terms without weights.

        The adversarial one is not among them: a discriminator has a state.
        """
        terms = {name: term for name, term in self if term is not self.adversarial}
        values = {
            name: from_start(term, step, partial(term.value, clips, made), zero)
            for name, term in terms.items()
        }
        weighted = [term.weight * values[name] for name, term in terms.items()]
        return sum(weighted[1:], weighted[0]), values
