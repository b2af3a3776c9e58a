"""The change of pixels at joins over that of other frames."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.core.errors import UserError
from soraxla.evals.metrics.metric import Clip, SetMetric
from soraxla.generation.blending import join_ratio


@dataclass(frozen=True, kw_only=True)
class JoinRatio(SetMetric):
    """The largest step at a join over the median step: `blending.join_ratio`.

    Attributes:
        joins: the first frame after each join; 0 for a loop's.
    """

    better = "lower"

    joins: tuple[int, ...]

    def row(self, clip: Clip) -> Float[np.ndarray, ""]:
        try:
            ratio = join_ratio(clip.frames, self.joins, closed=0 in self.joins)
        except UserError as error:
            raise UserError(f"clip {clip.name!r}: {error}") from None
        return np.array(ratio)
