"""Batches from a prepared dataset: what the plan says, and resumed exactly."""

import json
from dataclasses import replace
from functools import partial
from itertools import islice

import grain
import ml_dtypes
import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines import prepare as prepare_module
from data_pipelines.dataset import Dataset, check_vae, open_dataset
from data_pipelines.encoders import Encoders
from data_pipelines.loader import packed_batches, segments
from data_pipelines.prepare import prepare
from data_pipelines.sources.media import Media
from soraxla.core.types import LatentGrid
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.media.write import write_video
from soraxla.packing.conditioning import ConditioningMixture, Conditions
from soraxla.packing.controls import Controls
from soraxla.packing.pack import PackConfig, unpack
from soraxla.packing.patchify import patchify, positions
from soraxla.packing.schedule import schedule_steps
from soraxla.packing.tasks import SHARES
from tests.data_pipelines import test_prepare
from tests.data_pipelines.datasets import GRIDS, write_dataset

SPEC = PackConfig(row_length=24, text_length=12, max_segments=6)


def marked_shift(*, height, width, latent_frames):
    """Tells its arguments apart; the real rule is 1 for clips as small as these."""
    return 100 * latent_frames + height + width / 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("packed") / "dataset")


@pytest.fixture(scope="module")
def dataset(folder):
    return open_dataset(folder)


def batches_of(dataset, spec=SPEC, **settings):
    settings = {"seed": 0, "batch_rows": 2, "prefetch": 0, **settings}
    return packed_batches(dataset, spec, shift=marked_shift, **settings)


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_dataset_reads_back_what_was_written(dataset):
    assert len(dataset) == len(GRIDS)
    for i, grid in enumerate(GRIDS):
        latents, text, *_ = dataset.read(i)
        assert latents.shape == (*grid, 4) and text.shape == (1 + i % 5, 8)
        assert latents.dtype == text.dtype == ml_dtypes.bfloat16
    rng = np.random.default_rng(0)
    first_text, first = rng.normal(size=(1, 8)), rng.normal(size=(*GRIDS[0], 4))
    np.testing.assert_allclose(dataset.read(0)[0], first, rtol=2**-8)
    np.testing.assert_allclose(dataset.read(0)[1], first_text, rtol=2**-8)
    assert dataset.index["caption"].to_pylist()[3] == "caption 3"


@pytest.mark.parametrize("row_length", [24, 13])  # 13: clips keep their first latents
def test_batches_hold_the_rows_of_the_plan_in_order(dataset, row_length):
    """Each segment is its sample, cut and placed."""
    spec = replace(SPEC, row_length=row_length)
    planned = schedule_steps(dataset.sizes, spec, seed=5, batch_rows=3)
    kept, longest = set(), 0
    for batch in islice(iter(batches_of(dataset, spec, seed=5, batch_rows=3)), 16):
        assert batch.latents.shape == (3, row_length, 16)
        assert batch.text.shape == (3, 12, 8)
        assert not batch.condition_mask.any()
        tokens = unpack(batch.latents, batch.segment_ids)
        places = unpack(batch.positions, batch.segment_ids)
        texts = unpack(batch.text, batch.text_segment_ids)
        _, step = next(planned)
        for b, visits in enumerate(step):
            assert len(tokens[b]) == len(texts[b]) == len(visits)
            np.testing.assert_array_equal(
                batch.visit[b, : len(visits)], [d.number for d in visits]
            )
            for s, visit in enumerate(visits):
                latents, text, *_ = dataset.read(visit.sample)
                t, h, w = visit.latent_frames, *GRIDS[visit.sample][1:]
                expected = patchify(latents[:t], (1, 2, 2))
                np.testing.assert_array_equal(tokens[b][s], expected)
                place = positions(LatentGrid(t=t, h=h, w=w), (1, 2, 2), 24.0, 16.0)
                np.testing.assert_array_equal(places[b][s], place)
                text = text if visit.caption_kept else dataset.empty_text
                np.testing.assert_array_equal(texts[b][s], text)
                shift = marked_shift(height=8 * h, width=8 * w, latent_frames=t)
                assert batch.shift[b, s] == np.float32(shift)
                kept.add(visit.caption_kept)
                longest = max(longest, t)
    assert kept == {True, False} and longest == {24: 5, 13: 3}[row_length]


@pytest.fixture(scope="module")
def whole(dataset):
    return list(islice(iter(batches_of(dataset, batch_rows=5)), 52))


@pytest.mark.parametrize(
    ("steps", "prefetch"), [(0, 0), (1, 3), (16, 0), (16, 3), (45, 3)]
)
def test_restored_state_gives_the_very_same_batches(dataset, whole, prefetch, steps):
    """16 steps end a group, 45 are in the middle of one, begun in a second window; a
    thread has read ahead."""
    stopped = iter(batches_of(dataset, batch_rows=5, prefetch=prefetch))
    for batch in whole[:steps]:
        assert_same(next(stopped), batch)
    state = json.loads(json.dumps(stopped.get_state()))
    assert set(state) == {"window", "row", "step"}
    assert (state["window"] > 0) == (steps == 45)
    resumed = iter(batches_of(dataset, batch_rows=5, prefetch=prefetch))
    resumed.set_state(state)
    for batch in whole[steps : steps + 8]:
        assert_same(next(resumed), batch)
    stopped.set_state(state)  # the same iterator, thrown back in mid-flight
    assert_same(next(stopped), whole[steps])
    stopped.close()
    resumed.close()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_rows_of_one_and_read_their_own(dataset, monkeypatch, hosts):
    settings = {"batch_rows": 8}
    whole = list(islice(iter(batches_of(dataset, **settings)), 8))
    read, reads = Dataset.read, []
    monkeypatch.setattr(Dataset, "read", lambda *args: reads.append(0) or read(*args))
    shares = [
        iter(batches_of(dataset, host_rows=range(host, 8, hosts), **settings))
        for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        parts = []
        for share in shares:
            reads.clear()
            parts.append(next(share))
            assert len(parts[-1].latents) == 8 // hosts
            segments = unpack(parts[-1].latents, parts[-1].segment_ids)
            assert len(reads) == sum(map(len, segments))
        together = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
        together = [part.reshape(8, *part.shape[2:]) for part in together]
        assert_same(together, batch)
        states = [share.get_state() for share in shares]
        assert states == states[:1] * hosts
        if step == 9:  # any host's state is every host's
            for share in shares:
                share.set_state(states[0])


def test_the_models_own_shift_rule_fits(dataset):
    batches = packed_batches(
        dataset, SPEC, seed=0, batch_rows=1, shift=partial(time_shift, 3.0)
    )
    assert isinstance(batches, grain.IterDataset)
    iterator = iter(batches)
    shift = next(iterator).shift
    iterator.close()
    assert set(shift.flat) == {1.0, 3.0}


# --- Bad input --------------------------------------------------------------------


def test_a_thread_that_reads_ahead_ends_before_the_interpreter(dataset, monkeypatch):
    """A script's own iterator is deleted when Grain's modules are gone."""
    config = PackConfig(row_length=64, text_length=16, max_segments=4)
    shift = partial(time_shift, 1.0)
    iterator = iter(packed_batches(dataset, config, seed=0, batch_rows=1, shift=shift))
    next(iterator)
    thread = iterator._prefetch_thread
    assert thread.is_alive()
    loader._stop_reading()
    assert not thread.is_alive()
    monkeypatch.setattr("grain._src.python.dataset.dataset.DatasetIterator", None)
    iterator.close()


def test_another_vae_is_refused_by_its_hash(dataset):
    check_vae(dataset, "a" * 64)
    with pytest.raises(ValueError, match="another VAE") as error:
        check_vae(dataset, "b" * 64)
    assert "\n" not in str(error.value)


def test_what_cannot_be_packed_is_refused_at_start(dataset):
    spec = PackConfig(row_length=8, text_length=12, max_segments=6)
    with pytest.raises(ValueError, match=r"48x64 pixels.*row_length to at least 12"):
        batches_of(dataset, spec)
    for bad, message in (
        ({"batch_rows": 0}, "batch_rows is 0, expected at least 1"),
        (
            {"batch_rows": 2, "host_rows": [1, 2]},
            r"host_rows \[1, 2\]: expected some of 0 … 1",
        ),
        ({"batch_rows": 2, "host_rows": []}, "host_rows"),
    ):
        with pytest.raises(ValueError, match=message):
            batches_of(dataset, **bad)


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    """Six clips and a picture, prepared with what tasks need."""
    source = tmp_path_factory.mktemp("conditioned")
    for i, frames in enumerate((17, 13, 9, 5, 17, 33, 1)):
        video = np.random.default_rng(i).integers(0, 256, (frames, 32, 32, 3), np.uint8)
        write_video(source / f"{i}.webp", video, 16)
        (source / f"{i}.txt").write_text(f"clip {i}")
    prepare(
        source,
        source / "dataset",
        encode=Encoders(test_prepare.encode_videos, test_prepare.encode_text, 3, 8),
        vae_dir=None,
        vae_sha256="a" * 64,
        text_encoder="counting",
        progress=False,
    )
    return open_dataset(source / "dataset")


def test_what_the_plan_gives_is_packed_and_known(conditioned):
    """Every task fits the budgets of the schedule, which sees only sizes."""
    spec = PackConfig(
        row_length=64,
        text_length=32,
        max_segments=6,
        mixture=ConditioningMixture(**dict.fromkeys(SHARES, 1 / len(SHARES))),
    )
    planned = schedule_steps(conditioned.sizes, spec, seed=5, batch_rows=3)
    seen = set()
    for batch in islice(iter(batches_of(conditioned, spec, seed=5, batch_rows=3)), 60):
        _, step = next(planned)
        condition_mask = unpack(batch.condition_mask, batch.segment_ids)
        for row, visits in zip(condition_mask, step, strict=True):
            for mask, visit in zip(row, visits, strict=True):
                assert len(mask) == visit.tokens <= spec.row_length
                in_place = mask[: 4 * visit.latent_frames]
                assert mask[len(in_place) :].all() and not in_place.all()
                assert in_place.any() == bool(visit.prefix or visit.spatial)
                seen |= {
                    name for name, given in visit._asdict().items() if given
                } & set(Conditions._fields)
    assert seen >= {"start", "prefix", "frames", "tail"}


def test_a_mixture_that_the_dataset_cannot_give_is_refused(dataset):
    spec = replace(SPEC, mixture=ConditioningMixture(none=0.5, prefix=0.3, tail=0.2))
    with pytest.raises(ValueError, match=r"asks for tail, .*prepare it again"):
        batches_of(dataset, spec)
    possible = replace(
        SPEC, mixture=ConditioningMixture(none=0.5, prefix=0.3, first=0.2)
    )
    assert any(
        batch.condition_mask.any() for batch in islice(batches_of(dataset, possible), 8)
    )


class Steered(list):
    """A source of one clip far from the world's origin."""

    name, content = "steered", 1
    actions, camera = ("forward", "left"), True


class Player:
    uid = "far"

    def open(self):
        camera = np.tile(np.eye(4, dtype=np.float32), (9, 1, 1))
        camera[:, 0, 3] = 1000.3 + 0.25 * np.arange(9)
        actions = np.eye(9, 2, dtype=np.float32)
        frames = iter(np.zeros((9, 16, 16, 3), np.uint8))
        return Media("a walk", 16.0, frames, actions, camera)


def test_what_steers_a_clip_comes_to_its_tokens(tmp_path, monkeypatch):
    """Though records are bfloat16, which cannot tell 1000.3 from 1002."""
    monkeypatch.setattr(
        prepare_module, "open_source", lambda *_, **__: Steered([Player()])
    )
    test_prepare.run("steered", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    both = Controls(actions=Steered.actions, camera=True)
    (whole,) = segments(dataset, marked_shift, 16.0, both)
    assert whole.controls.shape == (3, both.width)
    poses = whole.controls[:, 10:].reshape(3, 4, 3, 4)
    np.testing.assert_allclose(poses[1:, -1, 0, 3], [1.0, 2.0], atol=2e-3)
    np.testing.assert_array_equal(whole.controls[1, 1:3], [0, 1])  # frame 1
    seen = set()
    spec = replace(SPEC, control_dropout=0.3)
    for batch in islice(iter(batches_of(dataset, spec, controls=both)), 12):
        first = np.flatnonzero(batch.segment_ids[0])[0]
        seen.add(tuple(batch.controls[0, first, [0, 9]]))
    assert seen == {(0, 0), (1, 0), (1, 1)}
    spec, lens = replace(SPEC, control_dropout=0.0), Controls(camera=True)
    for batch in islice(iter(batches_of(dataset, spec, controls=lens)), 12):
        assert (batch.controls[batch.segment_ids > 0, 0] == 1).all()
    with pytest.raises(ValueError, match="knows the actions"):
        batches_of(dataset, controls=Controls(actions=("fly",)))
