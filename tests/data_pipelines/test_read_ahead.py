"""Many threads read a prepared dataset, and only what is used."""

from itertools import islice
from threading import Barrier, BrokenBarrierError

import ml_dtypes
import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.dataset import Dataset, open_dataset
from data_pipelines.read_ahead import READERS
from soraxla.core.errors import UserError
from tests.data_pipelines.datasets import write_dataset
from tests.data_pipelines.test_loader import assert_same, batches_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_dataset(tmp_path_factory.mktemp("read") / "dataset"))


def test_records_are_read_at_the_same_time(dataset, monkeypatch):
    """Storage that answers late is asked by many threads, and the order stays."""
    expected = [*islice(iter(batches_of(dataset)), 3)]
    read, together, alone = Dataset.read, Barrier(READERS), []

    def late(*args):
        try:
            together.wait(timeout=5)  # until as many reads have begun
        except BrokenBarrierError:
            alone.append(args)
        return read(*args)

    monkeypatch.setattr(Dataset, "read", late)
    ahead = iter(batches_of(dataset, prefetch=1))
    for batch in expected:
        assert_same(next(ahead), batch)
    assert not alone
    together.abort()
    ahead.close()


def test_only_conditions_that_a_visit_uses_are_decoded(dataset, monkeypatch):
    decode = records.decode_record
    nan = np.full((1, 4, 4, 4), np.nan, ml_dtypes.bfloat16)
    monkeypatch.setattr(
        records, "decode_record", lambda data: decode(data) | {"frame_4": nan}
    )
    next(iter(batches_of(dataset)))
    with pytest.raises(UserError, match="record 0: frame_4 are not finite"):
        dataset.read(0).conditions["frame_4"]


def test_batches_have_the_numbers_that_are_stored(dataset):
    batch = next(iter(batches_of(dataset)))
    assert batch.latents.dtype == batch.text.dtype == ml_dtypes.bfloat16
