"""Features that a training's heads predict from the tokens after a block."""

from dataclasses import dataclass

from soraxla.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SelfFlowConfig:
    """Settings of Self-Flow (arXiv 2603.06507).

    Each visit has two times, and a random share of its generated tokens has the second
    one. From the tokens after a block, a head predicts the features of the EMA after a
    deeper block. The EMA sees all generated tokens at the earlier of both times.

    Attributes:
        weight: weight of the features' loss, a mean of 1 − cos.
        share: fraction of a visit's generated tokens with its second time.
        student: depth of the block from which features are predicted, as a fraction of
            the model's.
        teacher: depth of the EMA's block that has these features.
    """

    weight: float = 0.5
    share: float = 0.25
    student: float = 0.3
    teacher: float = 0.7

    def __post_init__(self) -> None:
        check_weight(self.weight, "self_flow")
        for name in ("share", "student", "teacher"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(
                    f"self_flow.{name} is {getattr(self, name)}, expected above 0 and "
                    "below 1"
                )

    def check(self, layers: int) -> None:
        """Raises UserError unless the teacher's block is deeper in such a model."""
        student, teacher = (block_at(d, layers) for d in (self.student, self.teacher))
        if student >= teacher:
            raise UserError(
                f"step.self_flow.student and teacher are blocks {student} and {teacher}"
                f" of {layers}: raise teacher or lower student, so that the teacher's "
                "is deeper"
            )


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Settings of feature alignment, the loss of REPA (arXiv 2410.06940).

    From the tokens after a block, a head predicts features that the dataset stores of
    each token (`soraxla prepare --features`).

    Attributes:
        weight: weight of the features' loss, a mean of 1 − cos.
        depth: depth of the block, as a fraction of the model's.
        width: numbers of a token's features; the dataset's replace it.
    """

    weight: float = 0.5
    depth: float = 0.35
    width: int = 0

    def __post_init__(self) -> None:
        check_weight(self.weight, "alignment")
        if not 0 < self.depth < 1:
            raise UserError(
                f"alignment.depth is {self.depth}, expected above 0 and below 1"
            )


def block_at(depth: float, layers: int) -> int:
    """Returns the number of blocks up to a depth, at least 1."""
    return max(1, round(depth * layers))


def check_weight(weight: float, group: str) -> None:
    """Raises UserError unless a loss can have this weight."""
    if not 0 < weight < float("inf"):
        raise UserError(f"{group}.weight is {weight}, expected a number above 0")
