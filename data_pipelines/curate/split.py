"""The stage `split`: training or evaluation, by the SHA-256 of the source."""

from data_pipelines.curate.stage import Stage
from data_pipelines.held_out import is_held_out

STAGE = Stage(
    name="split",
    summary="puts a share of the films aside for evaluation, by their SHA-256",
)


def split(source_sha256: str, share: float) -> str:
    """Returns "eval" for a share of all films and "train" for the others.

    All clips of a film, and of its copies, go the same way.
    """
    return "eval" if is_held_out(source_sha256, share) else "train"
