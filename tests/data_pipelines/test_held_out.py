"""The held-out split: by source, the same for ever, and never trained on."""

from functools import partial
from itertools import islice

import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from data_pipelines.held_out import is_held_out, split
from data_pipelines.loader import packed_batches, segments
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.packing.pack import PackConfig, unpack
from tests.data_pipelines.datasets import write_dataset

SPEC = PackConfig(row_length=24, text_length=12, max_segments=6)
SHIFT = partial(time_shift, "auto")
SHARE = 0.4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_dataset(tmp_path_factory.mktemp("held_out") / "data"))


def clips_of(dataset):
    """The first token of every clip in the first batches, as text."""
    batches = packed_batches(dataset, SPEC, seed=0, batch_rows=2, shift=SHIFT)
    rows = [
        row
        for batch in islice(iter(batches), 20)
        for row in unpack(batch.latents, batch.segment_ids)
    ]
    return {str(clip[0]) for row in rows for clip in row}


def first_tokens(dataset):
    return {str(clip.tokens[0]) for clip in segments(dataset, SHIFT, 16.0)}


def test_the_split_is_the_hash_of_the_source():
    """Kept for ever: a training that goes on must find the same split."""
    held = [name for name in map(str, range(20)) if is_held_out(name, 0.2)]
    assert held == ["8", "9"]
    assert all(is_held_out(name, 0.5) for name in held)
    assert not any(is_held_out(name, 0.0) for name in map(str, range(100)))
    share = np.mean([is_held_out(str(i), 0.2) for i in range(4000)])
    assert abs(share - 0.2) < 0.02


def test_held_out_clips_are_in_no_batch(dataset):
    training, held_out = split(dataset, SHARE)
    assert 0 < len(held_out) < len(dataset)
    assert len(training) + len(held_out) == len(dataset)
    assert clips_of(training) == first_tokens(training)
    assert not clips_of(training) & first_tokens(held_out)
    for part, held in ((training, False), (held_out, True)):
        sources = part.index["source"].to_pylist()
        assert sources == part.sources()
        assert [is_held_out(source, SHARE) for source in sources] == [held] * len(part)
        for i, row in enumerate(part.index.to_pylist()):
            assert part.read(i).latents.shape[:3] == (row["t"], row["h"], row["w"])


def test_a_subset_of_a_subset_has_its_rows(dataset):
    part = dataset.subset(np.array([4, 1, 2])).subset(np.array([2, 0]))
    assert part.sources() == ["sample_2.mp4", "sample_4.mp4"]
    np.testing.assert_array_equal(part.read(1).latents, dataset.read(4).latents)


def test_share_0_is_the_dataset_itself(dataset):
    assert split(dataset, 0.0) == (dataset, None)


@pytest.mark.parametrize("share", [0.0, SHARE])
def test_samples_of_the_split_eval_are_held_out_too(dataset, tmp_path, share):
    folder = write_dataset(tmp_path / "data", eval_samples=(1, 5))
    training, held_out = split(open_dataset(folder), share)
    by_share = set(split(dataset, share)[1].sources()) if share else set()
    assert set(held_out.sources()) == by_share | {"sample_1.mp4", "sample_5.mp4"}
    assert len(training) + len(held_out) == len(dataset)
    assert not training.held_out.any() and held_out.held_out.sum() == 2


@pytest.mark.parametrize(("share", "held"), [(1e-9, "0 of 7"), (1 - 1e-9, "7 of 7")])
def test_a_share_that_holds_out_nothing_or_all_is_refused(dataset, share, held):
    with pytest.raises(UserError, match=f"holds out {held} samples.*change eval_share"):
        split(dataset, share)
