"""The TFDS dataset of worlds: the same bytes for any workers, whole or not there."""

import io
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sources.files import fingerprint, open_source
from data_pipelines.worlds import WORLDS, builder, draw_size
from soraxla.core.errors import UserError
from soraxla.parallel.local_lock import trying_lock

ROOT = Path(__file__).parents[3]
CLIPS, SHARD = 6, 2


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(builder, "_SHARD", SHARD)


def build(folder, **options):
    options = {"clips": CLIPS, "progress": False} | options
    return builder.build("marks", folder, **options)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_SHARD", SHARD)
        build(root)
    return root


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The folder of the clips of another seed."""
    root = tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_SHARD", SHARD)
        build(root, seed=1)
    return root


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_clip_can_be_read_and_made_again(stored):
    import tensorflow_datasets as tfds

    data = tfds.data_source("soraxla_worlds/marks", data_dir=stored, split="train")
    assert len(data) == CLIPS
    for i, clip in enumerate(data):
        assert clip["seed"] == i
        assert clip["world"] == b"marks"
        episode = WORLDS["marks"](i, **draw_size(i)._asdict())
        np.testing.assert_array_equal(clip["video"], episode.video)
        np.testing.assert_array_equal(clip["ids"], episode.ids)
        assert clip["caption"].decode() == episode.caption
        assert clip["fps"] == episode.fps
        assert clip["actions"].shape == episode.actions.shape
        assert clip["depth"].size == 0 or episode.depth.any()
        state = np.load(io.BytesIO(clip["state"]))
        assert set(state) == set(episode.state)
        for name, value in episode.state.items():
            np.testing.assert_array_equal(state[name], value)


def test_a_dataset_may_be_of_pictures(tmp_path):
    import tensorflow_datasets as tfds

    build(tmp_path, clips=3, pictures=1.0)
    data = tfds.data_source("soraxla_worlds/marks", data_dir=tmp_path, split="train")
    assert [len(clip["video"]) for clip in data] == [1, 1, 1]
    with pytest.raises(ValueError, match="holds other clips"):
        build(tmp_path, clips=3)
    with pytest.raises(ValueError, match="expected a share from 0 to 1"):
        build(tmp_path, clips=3, pictures=2.0)


def test_mixed_clips_are_of_every_world_alike():
    drawn = [builder.world_of("mixed", seed) for seed in range(1000)]
    worlds = [world for world in WORLDS if world != "effects"]
    assert all(200 < drawn.count(world) < 300 for world in worlds)
    # The world of a seed stays what it was when datasets were written.
    assert drawn[:5] == ["marks", "marks", "physics", "voxel", "physics"]
    assert {builder.world_of("marks", seed) for seed in range(9)} == {"marks"}


def test_half_of_the_flat_clips_are_of_occlusion():
    drawn = [builder.world_of("flat", seed) for seed in range(1000)]
    assert 400 < drawn.count("occlusion") < 600
    assert min(drawn.count("physics"), drawn.count("marks")) > 200
    assert "voxel" not in drawn


def test_prepare_reads_it_as_a_source(stored):
    samples = open_source("tfds:soraxla_worlds/marks", data_dir=stored)
    assert samples[3].uid == "soraxla_worlds/marks/1.0.0/train/3"
    media = samples[3].open()
    size = draw_size(3)
    frames = list(media.frames)
    assert (len(frames), media.fps) == (size.frames, size.fps)
    assert media.actions is None  # of a world without a player
    assert frames[0].shape == (size.height, size.width, 3)


def test_clips_of_another_seed_are_another_source(stored, other):
    one, two = (
        fingerprint(open_source("tfds:soraxla_worlds/marks", data_dir=root))
        for root in (stored, other)
    )
    assert one[0] == two[0] and one != two


def test_a_data_dir_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected tfds:NAME"):
        open_source(tmp_path, data_dir=tmp_path)


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_workers(stored, tmp_path):
    folder = build(tmp_path, workers=2)
    assert contents(folder) == contents(stored / "soraxla_worlds/marks/1.0.0")
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]
    assert len(list(folder.glob("*.array_record-*-of-00003"))) == 3


def test_another_seed_gives_other_clips(stored, other):
    mine, theirs = (
        contents(root / "soraxla_worlds/marks/1.0.0") for root in (other, stored)
    )
    shards = [name for name in mine if "array_record" in name]
    assert shards and not any(mine[name] == theirs[name] for name in shards)


@pytest.mark.slow
def test_what_was_interrupted_goes_on_with_the_same_bytes(
    stored, tmp_path, monkeypatch
):
    write_all = builder._write_all

    def interrupted(shards, *rest):
        write_all(shards[:2], *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "_write_all", interrupted)
        build(tmp_path)
    config = tmp_path / "soraxla_worlds/marks"
    assert not (config / "1.0.0").exists()
    kept = {file.name: file.stat().st_ino for file in config.glob(".1.0.0*/*")}
    folder = build(tmp_path)
    assert len(kept) == 2
    assert all((folder / name).stat().st_ino == kept[name] for name in kept)
    assert contents(folder) == contents(stored / "soraxla_worlds/marks/1.0.0")


@pytest.mark.slow
def test_what_a_killed_build_leaves_is_cleared_and_another_build_waits(
    stored, tmp_path
):
    config = tmp_path / "soraxla_worlds/marks"
    (config / "incomplete.ABCDEF_1.0.0").mkdir(parents=True)
    with trying_lock(config / ".1.0.0.running") as free:
        assert free
        with pytest.raises(UserError, match=r"1\.0\.0: another run is at work here"):
            build(tmp_path)
    folder = build(tmp_path)
    assert contents(folder) == contents(stored / "soraxla_worlds/marks/1.0.0")
    assert [path.name for path in config.iterdir()] == ["1.0.0"]


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """They would write the files that the next build's workers write."""
    words = ("worlds", "--world", "marks", "--clips", "9000", "--workers", "2")
    parent = subprocess.Popen(
        [sys.executable, "-m", "soraxla.cli.main", *words, "--out", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.rglob(".*.array_record*.tmp")):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
    assert len(children.split()) >= 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(alive(int(child)) for child in children.split()):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)


def alive(process):
    """Returns whether a process runs; one that has ended may wait for its parent."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_finished_dataset_is_left_alone_and_another_is_refused(stored, monkeypatch):
    monkeypatch.setattr(builder, "_write_all", None)  # nothing may be written
    folder = build(stored)
    assert folder == stored / "soraxla_worlds/marks/1.0.0"
    text = f"clips {CLIPS}, seed 0.*clips {CLIPS}, seed 5.*choose another --out"
    with pytest.raises(ValueError, match=text) as error:
        build(stored, seed=5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--world", "plane"], "unknown world 'plane', expected mixed, "),
        (["--clips", "0"], "expected at least one clip"),
        (["--seed", "-1"], "expected at least one clip and worker, and a seed"),
        (["--workers", "0"], "workers 0"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, options, text):
    from soraxla.cli.main import main

    assert main(["worlds", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"soraxla worlds: [^\n]+\n", error) and text in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_without_tensorflow(tmp_path):
    code = (
        "import sys; from soraxla.cli.main import main\n"
        "done = main(['worlds', '--world', 'marks', '--clips', '2', '--workers', '1', "
        f"'--out', {str(tmp_path)!r}])\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules\n"
        "sys.exit(done)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 clips" in done.stdout and "clip/s" in done.stderr
    assert (tmp_path / "soraxla_worlds/marks/1.0.0/dataset_info.json").is_file()
