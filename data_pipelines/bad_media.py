"""The rule for media that cannot be used: left out, counted, and limited in share."""

from collections.abc import Sequence, Sized

from data_pipelines.sources.files import Item
from data_pipelines.sources.media import Sample
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


def there(samples: Sequence[Sample], max_bad: float | int) -> Sequence[Sample]:
    """Returns the samples, unless too many of their files do not exist.

    Raises:
        UserError: more than the share `max_bad` are missing.
    """
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
    return samples
