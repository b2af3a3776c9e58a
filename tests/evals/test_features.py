"""Extractors: the frames that they get, their batches, their names in reports."""

import json
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import damage
from soraxla.assets import worlds_probe
from soraxla.core.errors import UserError
from soraxla.evals.choice import Networks, chosen_metrics
from soraxla.evals.features import (
    EXTRACTORS,
    Features,
    load_features,
)
from soraxla.evals.metrics.metric import Clip
from soraxla.evals.metrics.mmd import MMD
from soraxla.evals.replicas import Replicas, on_every_device
from soraxla.evals.run_folder import read_run
from tests.models.vision.golden import write_transformer

ROOT = Path(__file__).parents[2]


def means(params, pixels):
    del params
    return pixels.reshape(*pixels.shape[:-3], -1).mean(-1).reshape(len(pixels), -1)


def frame_features(name="inception", network=means):
    return Features(
        name=name,
        sha256=name,
        dimension=1,
        preprocess=np.stack,
        network=network,
        replicas=Replicas({}),
    )


def video_features(name="i3d", frames=4):
    return Features(
        name=name,
        sha256=name,
        dimension=frames,
        frames=frames,
        preprocess=np.asarray,
        network=means,
        replicas=Replicas({}),
    )


def clip(length):
    """A clip whose frame i has the value i."""
    frames = np.arange(length, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Clip(name="a", frames=np.tile(frames, (1, 8, 8, 3)))


def test_a_batch_of_frames_has_one_shape():
    seen = []

    def network(params, pixels):
        seen.append(pixels.shape)
        return means(params, pixels)

    for length in (3, 16, 20):
        found = frame_features(network=network)(clip(length).frames)
        np.testing.assert_array_equal(found[:, 0], np.arange(length))
    assert set(seen) == {(16, 8, 8, 3)} and len(seen) == 4


@pytest.mark.parametrize(
    ("length", "expected"), [(9, [0, 1, 2, 3]), (3, [0, 1, 1, 2]), (1, [0, 0, 0, 0])]
)
def test_a_network_of_videos_gets_the_first_frames(length, expected):
    found = clip(length).features(video_features(), frames=16)
    np.testing.assert_array_equal(found, [expected])


def test_a_single_frame_is_the_middle_one():
    assert clip(9).features(frame_features(), 1) == 4
    assert clip(9).features(frame_features(), 3)[:, 0].tolist() == [0, 4, 8]


def test_published_names_are_only_for_the_published_pairs():
    extractors = [video_features(), frame_features(), frame_features("dinov2")]
    networks = Networks(extractors=extractors)
    found = chosen_metrics(["frechet", "mmd", "cmmd"], networks)
    assert list(found) == [
        *("fvd", "fid", "frechet/dinov2", "mmd/i3d", "kid", "mmd/dinov2"),
        *("cmmd/i3d", "cmmd/inception", "cmmd/dinov2"),
    ]
    kid = found["kid"]
    assert isinstance(kid, MMD) and kid.frames == 1  # its samples are images


def test_metrics_of_frames_use_no_features_of_videos():
    both = Networks(extractors=[video_features(), frame_features("dinov2")])
    assert list(chosen_metrics(["drift"], both)) == ["drift/dinov2"]
    with pytest.raises(UserError, match="'drift' needs features of frames, such as"):
        chosen_metrics(["drift"], Networks(extractors=[video_features()]))


def test_a_run_with_published_names_is_read(tmp_path):
    """Its rows name no extractor, and it has no drift of videos."""
    hashes = {"i3d": "a", "clip": "b"}
    manifest = {"metrics": ["frechet", "drift"], "extractors": hashes}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    keys = [f"{kind}:fvd" for kind in ("generated", "reference")]
    keys += ["generated:frechet/clip", "generated:drift/clip"]
    arrays = {key: np.zeros((2, 1, 3)) for key in keys}
    names = {f"names:{key}": np.array(["a", "b"]) for key in keys}
    np.savez(tmp_path / "rows.npz", **arrays, **names)  # pyright: ignore
    found = read_run(tmp_path)
    assert found["metrics"].keys() == {"fvd", "frechet/clip", "drift/clip"}


@pytest.mark.parametrize("name", ["inception", "i3d"])
def test_missing_weights_are_one_line_with_the_command_of_the_converter(name, tmp_path):
    folder = tmp_path / name
    with pytest.raises(UserError) as error:
        load_features(f"{name}:{folder}")
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"{folder}: holds no weights of {name}")
    assert f"soraxla.tools.convert_features {name} " in line
    assert line.endswith(f" {folder}`")


@pytest.mark.parametrize("name", ["dinov2", "videomae", "vjepa2"])
def test_missing_weights_name_a_repository_that_has_them(name, tmp_path):
    with pytest.raises(UserError, match=r"no such folder.*download of [\w-]+/v?\w+-"):
        load_features(f"{name}:{tmp_path / name}")
    assert name in EXTRACTORS


def test_a_loaded_extractor_has_a_hash_and_a_dimension(tmp_path):
    extractor = load_features(f"vjepa2:{write_transformer(tmp_path, 'vjepa2')}")
    assert (extractor.name, extractor.dimension, extractor.frames) == ("vjepa2", 32, 16)
    assert len(extractor.sha256) == 64
    found = Clip(name="a", frames=np.zeros((5, 40, 50, 3), np.uint8)).features(
        extractor, 16
    )
    assert found.shape == (1, 32) and np.isfinite(found).all()


def test_the_shipped_probe_feels_every_damage_more_where_it_is_stronger():
    """The record is of these weights, and 2 MB of them are shipped."""
    assert sum(p.stat().st_size for p in worlds_probe().iterdir()) < 3e6
    probe = load_features("worlds")
    assert (probe.dimension, probe.frames) == (128, 17)
    file = ROOT / "benchmarks" / "results" / "damage.json"
    found = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert found["features"] == {"name": "worlds", "sha256": probe.sha256}
    assert damage.grows(found["distances"]) == dict.fromkeys(damage.STRENGTHS, True)
    for kind, strengths in damage.STRENGTHS.items():
        assert [x["at"] for x in found["distances"][kind]] == list(strengths)


@pytest.mark.slow
def test_the_probe_s_distances_are_made_again():
    """Distances depend on the number of clips; their order does not."""
    found = damage.distances(load_features("worlds"), 48)
    for kind in ("noise", "other world"):
        values = [x["value"] for x in found[kind]]
        assert values[0] < values[-1] and values[-1] > found["real"][0]["high"]


def test_clips_are_spread_over_the_devices_and_come_in_order():
    """Each device has a copy of the weights, made once."""
    weights = Replicas({"a": np.ones(3)})

    def used(item):
        (device,) = weights.here()["a"].devices()
        return item, device

    found = list(on_every_device(used, range(40)))
    assert [item for item, _ in found] == list(range(40))
    devices = {device for _, device in found}
    assert len(devices) > 1 and devices <= set(jax.local_devices())
    assert len(weights._copies) == len(devices)


def test_networks_are_traced_one_at_a_time():
    """Flax changes its classes while it traces, and another thread may read them."""
    began, traced, together = [], set(), []

    def traces(item):
        device = str(jax.config.jax_default_device)
        if device not in traced:
            began.append(item)
            time.sleep(0.01)
            together.append(len(began) - len(traced))
            traced.add(device)
        return item

    assert list(on_every_device(traces, range(40))) == list(range(40))
    assert len(together) > 1 and set(together) == {1}


def test_a_clip_that_fails_ends_the_measurement():
    def failing(item):
        assert item < 3, "the fourth"
        return item

    with pytest.raises(AssertionError, match="the fourth"):
        list(on_every_device(failing, range(100)))
