"""Beam gives the table of one process, after kills too; its mistakes are one line."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines.curate import distribute, run, table
from data_pipelines.curate.distribute import Distribution
from soraxla.cli.main import main
from soraxla.core.errors import UserError
from soraxla.tools import curate as tool
from tests.data_pipelines.curate.films import film, shot

beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache_beam is in the extra beam",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Films with a common shot between two short ones, and a broken one."""
    folder = tmp_path_factory.mktemp("raw")
    for number in range(3):
        ends = shot(2 * number, 20), shot(2 * number + 1, 20)
        film(folder / f"{number}.mp4", ends[0], shot(9, 60), ends[1])
    (folder / "broken.mp4").write_bytes(b"no film")
    return folder


@pytest.fixture(scope="module")
def one(raw, tmp_path_factory):
    """The folder that one process makes of the films."""
    out = tmp_path_factory.mktemp("one")
    run.curate(raw, out, progress=False)
    return out


def without_beam(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_without_beam_several_workers_are_one_line(tmp_path, monkeypatch):
    for name in "ab":
        film(tmp_path / "raw" / f"{name}.mp4", shot(0, 3))
    without_beam(monkeypatch)
    with pytest.raises(UserError, match=r"soraxla\[beam\].*--workers 1"):
        run.curate(tmp_path / "raw", tmp_path / "out", workers=2, progress=False)
    with pytest.raises(UserError, match=r"soraxla\[beam\]"):
        run.curate(tmp_path / "raw", tmp_path / "out", runner="Spark", progress=False)


def test_one_worker_is_the_default_without_beam(monkeypatch):
    without_beam(monkeypatch)
    assert tool._default_workers() == 1


def test_options_reach_the_runner_as_they_are():
    given = ("region=a", "experiments=b", "experiments=c", "streaming")
    how = Distribution(workers=2, runner="FlinkRunner", options=given)
    flags = ["--region=a", "--experiments=b", "--experiments=c", "--streaming"]
    assert how.flags() == ["--runner=FlinkRunner", *flags]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"workers": 0}, "--workers is 0, expected at least 1"),
        ({"runner_options": ["a=b"]}, "--runner-option has no --runner"),
    ],
)
def test_wrong_workers_and_options_are_one_line(wrong, words, tmp_path):
    with pytest.raises(UserError, match=words):
        tool.curate_folder(tmp_path, tmp_path / "out", **wrong)


@beam
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "option", "words"),
    [
        ("FlingRunner", "a=b", "--runner FlingRunner: "),
        ("DirectRunner", "direct_num_workers=two", "invalid int value: 'two'"),
    ],
)
def test_an_unknown_runner_and_a_wrong_value_are_one_line(runner, option, words):
    how = Distribution(workers=1, runner=runner, options=(option,))
    with pytest.raises(UserError, match=words) as raised:
        distribute._options(how)
    assert "\n" not in str(raised.value)


def stamps(out):
    """The finished files, and when each was written."""
    return {p.name: p.stat().st_mtime_ns for p in (out / "progress").glob("*.json")}


def assert_same(out, one, done):
    """Asserts that a folder is that of one process, and kept its finished files."""
    for name in (table.CLIPS, "report.html"):
        assert (out / name).read_bytes() == (one / name).read_bytes()
    assert done.items() <= stamps(out).items() and len(stamps(out)) == 4
    assert {path.name for path in (out / "progress").iterdir()} <= {
        *stamps(out),
        ".lock",
    }


@beam
@pytest.mark.slow
def test_processes_give_the_table_of_one_process(raw, one, tmp_path):
    """So does a run after some files are done, which are not computed again."""
    run.curate(raw, tmp_path, workers=2, progress=False)
    assert_same(tmp_path, one, {})
    for name in sorted(stamps(tmp_path))[:2]:
        (tmp_path / "progress" / name).unlink()
    (tmp_path / table.CLIPS).unlink()
    done = stamps(tmp_path)
    assert len(done) == 2
    run.curate(raw, tmp_path, workers=2, progress=False)
    assert_same(tmp_path, one, done)
    rows, _ = table.read_clips(tmp_path / table.CLIPS)
    assert "duplicates" in {row["dropped_by"] for row in rows}


@beam
@pytest.mark.slow
def test_a_killed_run_is_continued(raw, one, tmp_path):
    """The command is killed as soon as a file is finished, with all its workers."""
    words = ["--source", str(raw), "--out", str(tmp_path), "--workers", "2"]
    command = [sys.executable, "-m", "soraxla.cli.main", "curate", *words]
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None and not stamps(tmp_path):
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = stamps(tmp_path)
    assert done and not (tmp_path / table.CLIPS).exists()
    run.curate(raw, tmp_path, workers=2, progress=False)
    assert_same(tmp_path, one, done)


LOCAL = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


@beam
@pytest.mark.slow
def test_films_of_a_bucket_are_curated_by_their_urls(raw, one, tmp_path, monkeypatch):
    """Beam's local file system under another scheme takes the bucket's place."""
    from apache_beam.io.localfilesystem import LocalFileSystem

    class Bucket(LocalFileSystem):
        @classmethod
        def scheme(cls):
            return "fake"

    monkeypatch.chdir(tmp_path)  # fake://b is a path below it
    shutil.copytree(raw, tmp_path / "fake:" / "b" / "raw")
    run.curate("fake://b/raw", "fake://b/out", runner=LOCAL, progress=False)
    out = tmp_path / "fake:" / "b" / "out"
    rows, meta = table.read_clips(out / table.CLIPS)
    assert rows == table.read_clips(one / table.CLIPS)[0]
    assert meta["source"] == "fake://b/raw" and (out / "report.html").is_file()
    done = stamps(out)
    assert len(done) == 4
    run.curate("fake://b/raw", "fake://b/out", runner=LOCAL, progress=False)
    assert stamps(out) == done
    with pytest.raises(UserError, match="fake://b/none: holds no media"):
        run.curate("fake://b/none", "fake://b/out", runner=LOCAL, progress=False)


@pytest.mark.parametrize("extra", [[], ["--runner", "DataflowRunner"]])
def test_a_bucket_needs_a_runner_and_both_places(extra, tmp_path, capsys):
    out = "gs://b/out" if not extra else str(tmp_path)
    words = ["--source", "gs://b/raw", "--out", out, *extra]
    assert main(["curate", *words]) == 2
    assert "need --runner, and --source and --out in buckets" in capsys.readouterr().err
    assert main(["curate", "--out", "gs://b/out"]) == 2
    assert "--out gs://b/out: filtering again" in capsys.readouterr().err
