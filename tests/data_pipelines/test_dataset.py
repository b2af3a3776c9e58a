"""A prepared dataset: opened whole or named, with few files open, damage found."""

import contextlib
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import dataset as dataset_module
from data_pipelines import records
from data_pipelines.dataset import open_dataset
from soraxla.core.errors import UserError
from tests.data_pipelines.datasets import GRIDS, write_dataset
from tests.data_pipelines.test_loader import assert_same, batches_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset") / "dataset")


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit_card(**changes):
    def edit(file):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


@pytest.mark.parametrize(
    ("name", "break_it", "error", "message"),
    [
        (records.CARD, lambda f: f.unlink(), UserError, "prepare"),
        (records.CARD, truncate, ValueError, "damaged"),
        (records.CARD, edit_card(format=99), ValueError, "99"),
        (records.CARD, edit_card(patch=None), ValueError, "no patch"),
        (records.CARD, edit_card(samples=8), ValueError, "7 rows"),
        (records.INDEX, lambda f: f.unlink(), UserError, "missing"),
        (records.INDEX, truncate, ValueError, "damaged"),
        (records.EMPTY_TEXT, lambda f: f.unlink(), UserError, "missing"),
        (records.EMPTY_TEXT, truncate, ValueError, "damaged"),
        (records.shard_name(1), lambda f: f.unlink(), UserError, "missing"),
        (records.shard_name(1), truncate, ValueError, "damaged"),
        (records.CARD, edit_card(latent_channels=9), ValueError, "the index says"),
    ],
)
def test_a_broken_dataset_is_named_in_one_line(
    folder, tmp_path, name, break_it, error, message
):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    break_it(copy / name)
    with pytest.raises(error, match=message) as caught:
        next(iter(batches_of(open_dataset(copy), prefetch=2)))
    text = str(caught.value)
    assert str(copy) in text and "\n" not in text


def open_shards() -> int:
    """Returns the number of shards that this process has open."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return sum(name.endswith(".array_record") for name in names)


def test_few_of_many_shards_are_open(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "data", shards=len(GRIDS))
    monkeypatch.setattr(dataset_module, "_OPEN_SHARDS", 2)
    before, many = open_shards(), open_dataset(folder)
    for i in (*range(len(GRIDS)), 0, 3):
        assert many.read(i).latents.shape[:3] == GRIDS[i]
    assert open_shards() - before == 2


def test_a_dataset_is_opened_without_a_look_at_its_shards(folder, monkeypatch):
    seen, is_file = [], Path.is_file
    monkeypatch.setattr(
        Path, "is_file", lambda path: seen.append(path.name) or is_file(path)
    )
    open_dataset(folder)
    assert seen and not [name for name in seen if name.startswith("data-")]


def test_format_2_gives_the_same_batches(dataset, tmp_path):
    older = open_dataset(write_dataset(tmp_path / "data", version=2))
    assert older.index.schema.names == [
        n for n in dataset.index.schema.names if n != "split"
    ]
    pairs = zip(batches_of(older), batches_of(dataset), strict=False)
    for one, other in islice(pairs, 5):
        assert_same(one, other)


def test_a_changed_byte_of_a_record_is_found(dataset, tmp_path):
    """ArrayRecord stores a hash of each record, which is compared at every read."""
    expected, found = dataset.read(3), 0
    content = (dataset.path / records.shard_name(0)).read_bytes()
    unbuffered = partial(dataset_module._open_shard, tmp_path)
    copy = replace(dataset, path=tmp_path, _reader=unbuffered)
    for at in np.flatnonzero(np.frombuffer(content, np.uint8))[100::40]:
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        (tmp_path / records.shard_name(0)).write_bytes(changed)
        try:
            assert_same(copy.read(3)[:2], expected[:2])
        except UserError as error:
            assert re.search(r"data-00000.*damaged \(.*hash mismatch", str(error))
            found += 1
    assert found > 4


@pytest.mark.parametrize("name", ["latents", "text"])
def test_a_record_that_is_not_finite_is_named(folder, tmp_path, monkeypatch, name):
    """Else a single NaN ends a training that blames the learning rate."""
    decode = records.decode_record

    def damaged(data):
        tensors = dict(decode(data))
        tensors[name] = tensors[name].copy()
        tensors[name].flat[0] = np.nan
        return tensors

    dataset = open_dataset(folder)
    monkeypatch.setattr(records, "decode_record", damaged)
    with pytest.raises(UserError, match=rf"data-0.*record 0: {name} are not finite"):
        dataset.read(0)
