"""The samples of a dataset that are kept from training, to be measured on."""

import hashlib

import numpy as np

from data_pipelines.dataset import Dataset
from soraxla.core.errors import UserError


def split(dataset: Dataset, share: float) -> tuple[Dataset, Dataset | None]:
    """Returns the samples to train on and those held out; all and None without any.

    Held out are the samples whose split in the index is "eval", and `share` of the
    sources. Those of a dataset that has grown are the ones it had at the beginning, so
    that measurements of one training compare.

    Raises:
        UserError: no sample would be held out, or none would be left.
    """
    held = dataset.held_out
    if share:
        held = held | [is_held_out(source, share) for source in dataset.sources()]
    elif not held.any():
        return dataset, None
    if held.all() or not held.any():
        raise UserError(
            f"{dataset.path}: eval_share {share} holds out {held.sum()} of "
            f"{len(held)} samples, expected some and not all; change eval_share"
        )
    training = dataset.subset(np.flatnonzero(~held))
    begun = held & dataset.sizes.visit_order.began_with(len(dataset))
    return training, dataset.subset(np.flatnonzero(begun)) if begun.any() else None


def as_it_began(dataset: Dataset) -> Dataset:
    """Returns the samples that a dataset had when its training began."""
    order = dataset.sizes.visit_order
    if not order.has_grown:
        return dataset
    return dataset.subset(np.flatnonzero(order.began_with(len(dataset))))


def is_held_out(source: str, share: float) -> bool:
    """Returns whether the SHA-256 of the name, as a fraction of 1, is below `share`.

    All pieces of one source go the same way, in every version of a dataset. A larger
    share holds out what a smaller one does, and more.
    """
    first = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big")
    return (first >> 11) * 2.0**-53 < share
