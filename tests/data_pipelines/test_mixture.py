"""Several datasets as one: samples, batches, exact resume, and what is refused."""

import functools
import json
from itertools import islice

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.dataset import open_dataset
from data_pipelines.held_out import split
from data_pipelines.loader import packed_batches
from data_pipelines.mixture import mixed
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule import schedule_steps, schedule_window
from tests.data_pipelines.datasets import GRIDS, write_dataset

PACK = PackConfig(row_length=64, text_length=32, max_segments=8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    write_dataset(root / "a", eval_samples=(1,))
    write_dataset(root / "b", GRIDS[:3], shards=1)
    return root / "a", root / "b"


@pytest.fixture(scope="module")
def both(folders):
    a, b = map(open_dataset, folders)
    return mixed({folders[0]: (a, 0.7), folders[1]: (b, 0.3)})


def batches(dataset):
    shift = functools.partial(time_shift, "auto")
    return packed_batches(dataset, PACK, seed=1, batch_rows=2, shift=shift, prefetch=0)


def test_samples_are_those_of_the_datasets_one_after_the_other(both, folders):
    a, b = map(open_dataset, folders)
    assert len(both) == len(a) + len(b) == 10
    for i in range(10):
        expected = a.read(i) if i < 7 else b.read(i - 7)
        assert (both.read(i).latents == expected.latents).all()
    captions = [*a.index["caption"].to_pylist(), *b.index["caption"].to_pylist()]
    assert both.index["caption"].to_pylist() == captions
    assert both.sources() == a.sources() + b.sources()
    some = both.subset(np.array([2, 8]))
    assert some.index["caption"].to_pylist() == [captions[2], captions[8]]
    assert (some.read(1).latents == b.read(1).latents).all()


def test_visits_have_the_shares_and_stay_so_without_what_is_held_out(both):
    training, held_out = split(both, 0.0)
    assert held_out is not None and held_out.sources() == ["sample_1.mp4"]
    rows = [schedule_window(training.sizes, PACK, seed=0, window=w) for w in range(20)]
    samples = np.array([v.sample for window in rows for row in window for v in row])
    assert set(samples) == set(range(9))
    assert abs((samples >= 6).mean() - 0.3) < 0.001


def test_a_mixture_goes_on_exactly(both):
    """A restored position gives the batches of an uninterrupted run."""
    expected = list(islice(batches(both), 20))
    for steps in (1, 17):
        iterator = iter(batches(both))
        list(islice(iterator, steps))
        again = iter(batches(both))
        again.set_state(iterator.get_state())
        for one, two in zip(islice(again, 3), expected[steps:], strict=False):
            for name in ("latents", "visit", "text"):
                a, b = getattr(one, name), getattr(two, name)
                np.testing.assert_array_equal(a, b)


def test_one_dataset_by_any_weight_has_the_schedule_that_it_has_without(folders):
    dataset = open_dataset(folders[0])
    assert mixed({folders[0]: (dataset, 0.2)}) is dataset


def test_the_schedule_of_hosts_needs_sizes_only(both, folders):
    """The order of datasets does not depend on opened files or on the mesh."""
    a, b = map(open_dataset, folders)
    again = mixed({folders[0]: (a, 7.0), folders[1]: (b, 3.0)})
    one, two = (
        list(islice(schedule_steps(d.sizes, PACK, seed=1, batch_rows=2), 30))
        for d in (both, again)
    )
    assert one == two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vae_sha256": "b" * 64}, r"the same VAE \(aaaaaaaaaaaa… and bbbbbbbbbbbb…\)"),
        ({"text_encoder": "umt5:/there"}, r"text encoder \(hashed and umt5\)"),
        ({"text_width": 16}, r"text width \(8 and 16\)"),
        ({"actions": ["jump"]}, "list of actions"),
        ({"features": {"source": "simulator"}}, "kind of features"),
    ],
)
def test_datasets_of_other_encoders_are_refused(folders, tmp_path, change, message):
    other = write_dataset(tmp_path / "c")
    card = json.loads((other / records.CARD).read_text()) | change
    (other / records.CARD).write_text(json.dumps(card))
    pair = {f: (open_dataset(f), 1.0) for f in (folders[0], other)}
    with pytest.raises(UserError, match=f"{other}: have not the same "):
        mixed(pair)
    with pytest.raises(UserError, match=message):
        mixed(pair)
