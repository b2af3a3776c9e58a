"""The rule for media that cannot be used: left out, counted, and limited in share."""

from collections.abc import Sized

from data_pipelines.sources.files import Item
from data_pipelines.sources.media import Source
from soraxla.core.errors import UserError


def check_share(
    bad: Sized, total: int, max_bad: float | int, last: str, remedy: str
) -> None:
    """Raises UserError if more than `max_bad` of `total` files cannot be used.

    Args:
        bad: the files that cannot be used.
        last: one of them, with the reason.
        remedy: the advice that ends the message.
    """
    if len(bad) > max_bad * total:
        raise UserError(
            f"{len(bad)} of {total} files cannot be used, more than max_bad "
            f"{max_bad:.1%}; the last is {last}; {remedy}"
        )


def check_there(samples: Source, max_bad: float | int) -> None:
    """Raises UserError if more than `max_bad` of a folder's files do not exist."""
    items = (sample for sample in samples if isinstance(sample, Item))
    missing = [item.file for item in items if not item.file.is_file()]
    if missing:
        check_share(
            missing,
            len(samples),
            max_bad,
            f"{missing[-1]}: no such file",
            "correct the list of captions, or raise --max-bad",
        )
