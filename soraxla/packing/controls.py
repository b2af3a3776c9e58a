"""Actions and the camera's path, one row for each latent frame. NumPy only.

Rows are added to the tokens of their latent frame, as GameNGen (arXiv 2408.14837) and
CameraCtrl (arXiv 2404.02101) steer frames; a row of zeros has no effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from soraxla.core.config import nearest
from soraxla.core.errors import UserError

_TEMPORAL = 4  # frames a latent
_POSE = 12  # numbers: the upper three rows of a camera's matrix
_LONGEST = 100_000  # frames of one action


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Inputs that steer a model beside its text; by default none.

    Attributes:
        actions: names of the actions, in the order of their inputs.
        camera: True if the camera's pose is an input.
    """

    actions: tuple[str, ...] = ()
    camera: bool = False

    @property
    def width(self) -> int:
        """Numbers of a latent frame's row."""
        groups = [len(self.actions), _POSE if self.camera else 0]
        return sum(1 + _TEMPORAL * group for group in groups if group)

    def rows(
        self,
        latents: int,
        actions: Float[np.ndarray, "t a"] | None,
        camera: Float[np.ndarray, "t 4 4"] | None,
        *,
        start: int = 0,
    ) -> Float[np.ndarray, "latents c"]:
        """Returns the rows of latent frames `start` … `start` + `latents` − 1.

        A group (actions, camera) is 1 and then the numbers of the latent's four frames;
        the first latent has only the last of them. A group that is None is 0. Poses are
        relative to the first frame that is not before `start`.

        Args:
            actions: of 1 + 4k frames; row i acts between frames i − 1 and i.
            camera: camera to world.
        """
        groups = []
        if self.actions:
            groups.append((actions, len(self.actions)))
        if self.camera:
            poses = None if camera is None else _relative(camera, _TEMPORAL * start)
            groups.append((poses, _POSE))
        rows = np.zeros((latents, self.width), np.float32)
        place = 0
        for values, width in groups:
            if values is not None:
                lead = np.zeros((_TEMPORAL - 1, width), np.float32)
                of_latent = np.concatenate([lead, values]).reshape(-1, 4 * width)
                rows[:, place] = 1
                rows[:, place + 1 : place + 1 + _TEMPORAL * width] = of_latent[
                    start : start + latents
                ]
            place += 1 + _TEMPORAL * width
        return rows


def of_tokens(
    rows: Float[np.ndarray, "t c"], *, own: int, tokens: int, step: int
) -> Float[np.ndarray, "tokens c"]:
    """Returns for each token of a clip the row of its latent frame.

    Args:
        own: tokens of the clip's grid; appended tokens after them have rows of zeros.
        step: latent frames of a token.
    """
    spread = np.zeros((tokens, rows.shape[1]), np.float32)
    spread[:own] = rows[::step].repeat(own * step // len(rows), axis=0)
    return spread


def _relative(
    camera: Float[np.ndarray, "t 4 4"], first: int
) -> Float[np.ndarray, "t 12"]:
    poses = np.linalg.inv(camera[first])[None] @ camera
    return poses[:, :3].reshape(len(camera), _POSE).astype(np.float32)


def parse_actions(
    steps: Sequence[str], names: tuple[str, ...]
) -> Float[np.ndarray, "t a"]:
    """Parses steps such as "forward*8", "left*4" and "dig" into a row for each frame.

    `+` joins simultaneous actions, as in "forward+jump*2"; "wait" is no action.

    Raises:
        UserError: an unknown action, or a count that is not 1 or more.
    """
    rows = []
    for step in steps:
        joined, star, count = step.partition("*")
        if star and not (count.strip().isdecimal() and 0 < int(count) <= _LONGEST):
            raise UserError(
                f"action {step!r} has the count {count.strip()!r}, "
                f"expected whole frames from 1 to {_LONGEST}, as in {joined.strip()}*8"
            )
        row = np.zeros(len(names), np.float32)
        for name in (part.strip() for part in joined.split("+")):
            if name in names:
                row[names.index(name)] = 1
            elif name != "wait":
                raise UserError(
                    f"action {step!r}: {name!r} is no action"
                    f"{nearest(name, (*names, 'wait'))}"
                )
        rows += [row] * (int(count) if star else 1)
    return np.stack(rows)
