"""Folders of LeRobot as a source, of both layouts, with actions and every fault."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.decode_ahead import decode_ahead
from data_pipelines.sources import film
from data_pipelines.sources.files import fingerprint, open_source
from data_pipelines.sources.media import EVAL, TRAIN, Extent, SizedSample, SteeredSource
from soraxla.core.errors import UserError
from soraxla.media.write import write_video
from tests.data_pipelines.test_prepare import index, record, run

FPS, LENGTHS = 10, (9, 5, 9)
CAMERAS = ("observation.images.left", "observation.images.top")
TASKS = ("push the  cube", "open the drawer", "push the  cube")
V2 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
    "episode_{episode_index:06d}.mp4",
}
V3 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/"
    "file-{file_index:03d}.mp4",
}


def frames_of(camera, episode):
    """Frames whose green is the episode and whose red grows with time."""
    clip = np.zeros((LENGTHS[episode], 32, 48, 3), np.uint8)
    clip[..., 0] = 20 * np.arange(len(clip))[:, None, None]
    clip[..., 1], clip[..., 2] = 80 * episode, 200 * camera
    return clip


def actions_of(episode):
    t = np.arange(LENGTHS[episode])
    return np.stack([100.0 * episode + t, np.full(len(t), 7.0)], axis=1)


def table_of(*episodes):
    rows = [(e, t) for e in episodes for t in range(LENGTHS[e])]
    return pa.table(
        {
            "action": [actions_of(e)[t].tolist() for e, t in rows],
            "episode_index": [e for e, _ in rows],
            "frame_index": [t for _, t in rows],
        }
    )


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def put(path, write, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(value, path)


def facts(version, paths):
    video = {"dtype": "video", "shape": [32, 48, 3]}
    return {
        **{"codebase_version": version, "fps": FPS, "chunks_size": 2, **paths},
        "splits": {"train": "0:2", "test": "2:3"},
        "features": {
            **dict.fromkeys(reversed(CAMERAS), video),
            "depth": video | {"info": {"video.is_depth_map": True}},
            "action": {
                "dtype": "float32",
                "shape": [2],
                "names": {"m": ["arm", "jaw"]},
            },
        },
    }


def write_v2(root):
    write_json(root / "meta" / "info.json", facts("v2.1", V2))
    lines, stats = [], []
    for episode, length in enumerate(LENGTHS):
        place = {"episode_index": episode, "episode_chunk": episode // 2}
        put(root / V2["data_path"].format(**place), pq.write_table, table_of(episode))
        for number, camera in enumerate(CAMERAS):
            path = root / V2["video_path"].format(**place, video_key=camera)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames_of(number, episode), FPS)
        row = {"episode_index": episode, "tasks": [TASKS[episode]], "length": length}
        lines.append(json.dumps(row))
        values = actions_of(episode)
        group = {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
        group |= {"count": [length]}
        stats.append(json.dumps({"episode_index": episode, "stats": {"action": group}}))
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    (root / "meta" / "episodes_stats.jsonl").write_text("\n".join(stats))
    return root


def write_v3(root):
    write_json(root / "meta" / "info.json", facts("v3.0", V3))
    place = {"chunk_index": 0, "file_index": 0}
    put(root / V3["data_path"].format(**place), pq.write_table, table_of(0, 1, 2))
    for number, camera in enumerate(CAMERAS):
        path = root / V3["video_path"].format(**place, video_key=camera)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.concatenate([frames_of(number, e) for e in range(3)]), FPS)
    rows, start = [], 0
    for episode, length in enumerate(LENGTHS):
        row = {"episode_index": episode, "tasks": [TASKS[episode]], "length": length}
        row |= {"data/chunk_index": 0, "data/file_index": 0, "stats/action/mean": [0.0]}
        for camera in CAMERAS:
            row |= {f"videos/{camera}/{name}": 0 for name in place}
            row[f"videos/{camera}/from_timestamp"] = start / FPS
        rows.append(row)
        start += length
    listed = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    put(listed, pq.write_table, pa.Table.from_pylist(rows[::-1]))
    values = np.concatenate([actions_of(e) for e in range(3)])
    group = {"mean": values.mean(0).tolist(), "std": values.std(0).tolist()}
    write_json(root / "meta" / "stats.json", {"action": group})
    return root


@pytest.fixture(scope="module", params=[write_v2, write_v3], ids=["v2.1", "v3.0"])
def root(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("lerobot"))


@pytest.mark.slow
def test_an_episode_of_a_camera_is_a_clip(root):
    samples = open_source(f"lerobot:{root}")
    assert [s.uid for s in samples] == [
        f"{camera}/episode_{e:06d}" for camera in CAMERAS for e in range(3)
    ]
    for i, sample in enumerate(samples):
        camera, episode = divmod(i, 3)
        media = sample.open()
        assert (media.caption, media.fps) == (" ".join(TASKS[episode].split()), FPS)
        assert media.split == (EVAL if episode == 2 else TRAIN)
        found = np.stack(list(media.frames)).astype(int)
        expected = frames_of(camera, episode)
        assert found.shape == expected.shape and abs(found - expected).max() < 30
        assert isinstance(sample, SizedSample)
        assert sample.size() == Extent(32, 48, len(found), len(media.caption))


@pytest.mark.slow
def test_actions_lead_to_their_frame_in_units_of_the_statistics(root):
    samples = open_source(f"lerobot:{root}")
    assert isinstance(samples, SteeredSource)
    assert (samples.actions, samples.camera) == (("arm", "jaw"), False)
    values = np.concatenate([actions_of(e) for e in range(3)])
    for sample, episode in zip(samples, range(3), strict=False):
        expected = (actions_of(episode)[:, 0] - values[:, 0].mean()) / values[
            :, 0
        ].std()
        found = sample.open().actions
        assert found is not None
        np.testing.assert_allclose(found[1:, 0], expected[:-1], atol=1e-5)
        assert not found[0].any() and not found[:, 1].any()  # the jaw never moves


@pytest.mark.slow
def test_a_film_of_many_episodes_is_decoded_once(tmp_path, monkeypatch):
    opened = []
    read = film.read_frames
    monkeypatch.setattr(film, "read_frames", lambda f: opened.append(f) or read(f))
    samples = open_source(f"lerobot:{write_v3(tmp_path)}")
    for _, items in decode_ahead(samples, lambda s: s.open().frames):
        assert len(list(items)) in LENGTHS
    assert len(opened) == len(CAMERAS)


@pytest.mark.slow
def test_prepare_stores_the_actions(root, tmp_path):
    card = run(f"lerobot:{root}", tmp_path / "out", max_bad=0)
    assert card is not None and card["actions"] == ["arm", "jaw"]
    rows = index(tmp_path / "out")
    assert [row["split"] for row in rows] == ["train", "train", "eval"] * 2
    stored = record(tmp_path / "out", rows[0])["actions"]
    assert stored.shape == (9, 2) and (np.diff(stored[1:, 0]) > 0).all()


@pytest.mark.slow
def test_the_statistics_are_part_of_the_fingerprint(tmp_path):
    root = write_v2(tmp_path / "one")
    before = fingerprint(open_source(f"lerobot:{root}"))
    assert before == fingerprint(open_source(f"lerobot:{root}"))
    path = root / "meta" / "episodes_stats.jsonl"
    path.write_text(path.read_text().replace('"std": [', '"std": [1'))
    assert before != fingerprint(open_source(f"lerobot:{root}"))
    path.unlink()
    samples = open_source(f"lerobot:{root}")  # without statistics, without actions
    assert isinstance(samples, SteeredSource) and samples.actions == ()
    assert samples[0].open().actions is None


def changed(root, **entries):
    path = root / "meta" / "info.json"
    write_json(path, json.loads(path.read_text()) | entries)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda r: changed(r, codebase_version="v1.6"), "version v1.6, expected v2.0"),
        (
            lambda r: changed(r, codebase_version="v4.0"),
            "info.json: has the version v4",
        ),
        (lambda r: changed(r, fps=0), "info.json: is damaged .fps is 0"),
        (lambda r: changed(r, features=[]), "features is no dict"),
        (
            lambda r: changed(r, features={"a": {"dtype": "image"}}),
            "has no camera stored as video, only image",
        ),
        (lambda r: changed(r, video_path="{x}.mp4"), r"meta: is damaged \(has no 'x'"),
        (lambda r: (r / "meta/info.json").unlink(), "is no LeRobot dataset of version"),
        (lambda r: (r / "meta/info.json").write_text("{"), "info.json: is damaged"),
        (lambda r: (r / "meta/episodes.jsonl").unlink(), "jsonl: no such file"),
        (lambda r: (r / "meta/episodes.jsonl").write_text(""), "lists no episodes"),
        (
            lambda r: (r / "meta/episodes.jsonl").write_text("{}\n{"),
            "jsonl:2: is damaged",
        ),
        (
            lambda r: (r / "meta/episodes.jsonl").write_text('{"episode_index": 0}'),
            "meta: is damaged .has no 'tasks'",
        ),
        (
            lambda r: (r / "meta/episodes_stats.jsonl").write_text("{}"),
            "statistics of actions are damaged",
        ),
    ],
)
def test_a_damaged_dataset_is_one_line(tmp_path, damage, text):
    write_json(tmp_path / "meta" / "info.json", facts("v2.1", V2))
    row = {"episode_index": 0, "tasks": ["a"], "length": 5}
    write_json(tmp_path / "meta" / "episodes.jsonl", row)
    damage(tmp_path)
    with pytest.raises(UserError, match=text) as error:
        open_source(f"lerobot:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path):
    root = write_v2(tmp_path / "in")
    camera = {"video_key": CAMERAS[0], "episode_chunk": 0}
    (root / V2["video_path"].format(**camera, episode_index=0)).unlink()
    table = root / V2["data_path"].format(episode_chunk=0, episode_index=1)
    pq.write_table(table_of(1).slice(1), table)
    path = root / "meta" / "episodes.jsonl"
    last = '{"episode_index": 2, "tasks": ["a"], "length": 20}'
    lines = path.read_text().splitlines()[:2]
    none = '{"episode_index": 3, "tasks": [], "length": 9}'
    path.write_text("\n".join([*lines, last, none]))
    run(f"lerobot:{root}", tmp_path / "out", max_bad=1)
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in skipped[:4]]
    expected = ("no such file", "has actions (4, 2) of episode 1", "(9, 2)", "no task")
    for reason, words in zip(reasons, expected, strict=True):
        assert words in reason
