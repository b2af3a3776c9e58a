"""The whole curation of small folders: the table, its filter, and interruptions."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.curate import film as film_module
from data_pipelines.curate import run, stages, table, work
from data_pipelines.curate.film import CurateConfig, Scorers, curate_file, sha256_of
from data_pipelines.curate.stage import Limit
from data_pipelines.curate.stages import read_thresholds
from data_pipelines.dataset import open_dataset
from data_pipelines.sources.files import open_source
from soraxla.cli.main import main
from soraxla.core.errors import UserError
from soraxla.media.read import read_clip
from tests.data_pipelines.curate.films import film, shot


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two films: a kept shot, a short one, a dark one; and a copy of the first."""
    folder = tmp_path_factory.mktemp("raw")
    film(folder / "a.mp4", shot(0, 60), shot(1, 30), shot(2, 60) // 7)
    film(folder / "sub" / "b.mp4", shot(0, 60)[:, :, ::-1], shot(3, 60))
    (folder / "copy").mkdir()
    shutil.copy(folder / "a.mp4", folder / "copy" / "a.mp4")
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def curated(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "clips"
    run.curate(raw, out, progress=False)
    return out


def table_of(out):
    rows, _ = table.read_clips(out / table.CLIPS)
    return rows


def test_every_candidate_has_a_row_with_its_reason(curated):
    found = {
        (row["source"], row["start_frame"]): (row["dropped_by"], row["frames"])
        for row in table_of(curated)
    }
    assert found.pop(("broken.mp4", 0))[0] == "probe"
    assert found == {
        ("a.mp4", 0): (None, 58),
        ("a.mp4", 62): ("shots", 26),
        ("a.mp4", 92): ("picture", 58),
        ("copy/a.mp4", 0): ("duplicates", 58),
        ("copy/a.mp4", 62): ("shots", 26),
        ("copy/a.mp4", 92): ("picture", 58),
        ("sub/b.mp4", 0): (None, 58),
        ("sub/b.mp4", 62): (None, 58),
    }
    read = pq.read_table(curated / table.CLIPS)
    assert read.schema.names == table.SCHEMA.names
    meta = json.loads(read.schema.metadata[b"soraxla"])
    assert meta["settings"]["shots"]["trim_frames"] == 2
    assert meta["thresholds"]["shots"]["seconds"] == {"min": 2.0, "max": 60.0}


def test_a_run_after_a_kill_computes_only_what_is_missing(
    raw, curated, tmp_path, monkeypatch
):
    """The table has the same bytes, and each content is computed once."""
    calls = []

    def counted(path, sha256, *args):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return curate_file(path, sha256, *args)

    monkeypatch.setattr(work, "curate_file", counted)
    with pytest.raises(KeyboardInterrupt):
        run.curate(raw, tmp_path, progress=False)
    assert not (tmp_path / table.CLIPS).exists()
    run.curate(raw, tmp_path, progress=False)
    assert calls == ["a.mp4", "broken.mp4", "b.mp4", "b.mp4"]
    for name in (table.CLIPS, "report.html"):
        assert (tmp_path / name).read_bytes() == (curated / name).read_bytes()
    run.curate(raw, tmp_path, cfg=CurateConfig(safety="new"), progress=False)
    assert len(calls) == 7


def test_other_thresholds_filter_stored_scores(curated, tmp_path, capsys):
    out = shutil.copytree(curated, tmp_path / "clips")
    file = tmp_path / "t.toml"
    file.write_text(
        "[shots]\nseconds = {min = 1.0}\n[duplicates]\ndistance = {}\n"
        "[picture]\nexposure = {max = 0.0}\n"
    )
    assert main(["curate", "--out", str(out), "--thresholds", str(file)]) == 0
    rows = table_of(out)
    assert {row["dropped_by"] for row in rows} == {"probe", "picture"}
    assert all("exposure" in row["reason"] for row in rows if row["frames"])
    assert "0 of 9 clips are kept" in capsys.readouterr().out
    assert main(["curate", "--out", str(out)]) == 0
    for name in (table.CLIPS, "report.html"):
        assert (out / name).read_bytes() == (curated / name).read_bytes()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[moton]\nmean = {}", "'moton' is no stage; did you mean motion?"),
        ("[motion]\nmeen = {}", "'meen' is no score of motion; did you mean mean?"),
        ("[motion]\nmean = 3", "motion.mean is 3, expected {min"),
        ("[motion]\nmean = {low = 3}", "motion.mean"),
        ("[motion]\nmean = {min = 3, max = 1}", "min above its max"),
        ("motion = 3", "expected a table [motion]"),
        ("[motion", "is not TOML"),
    ],
)
def test_a_wrong_file_of_thresholds_is_one_line(toml, words, tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(toml)
    with pytest.raises(UserError) as raised:
        read_thresholds(file)
    assert words in str(raised.value) and str(file) in str(raised.value)


def test_a_limit_replaces_the_default_of_its_score(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text("[picture]\nnoise = {}\nexposure = {min = 0.5}")
    found = read_thresholds(file)["picture"]
    assert found["noise"] == Limit() and found["exposure"] == Limit(min=0.5)
    assert found["contrast"] == stages.STAGES["picture"].limits["contrast"]


def test_a_required_safety_score_that_is_absent_drops_the_clip(curated, tmp_path):
    out = shutil.copytree(curated, tmp_path / "clips")
    keep = run.Filter(thresholds=read_thresholds(None), require_safety=True)
    rows = run.refilter(out, keep)
    assert not any(row["kept"] for row in rows)
    assert {row["dropped_by"] for row in rows} == {
        "probe",
        "shots",
        "picture",
        "safety",
    }


def test_the_report_shows_reasons_histograms_and_pictures(curated):
    page = (curated / "report.html").read_text()
    assert "3 of 9 clips of 4 files are kept" in page
    assert "<svg" in page and "stroke=" in page and "percentile" in page
    for title in ("dropped", "borderline", "kept"):
        assert f"<h4>{title}</h4>" in page
    assert "data:image/jpeg;base64," in page and "is below" in page


def test_kept_clips_are_read_from_their_films(raw, curated, tmp_path):
    samples = open_source(str(curated / table.CLIPS))
    assert [s.uid for s in samples] == ["a.mp4@0", "sub/b.mp4@0", "sub/b.mp4@62"]
    whole = read_clip(raw / "sub" / "b.mp4")
    for sample in [samples[1], samples[2], samples[1]]:
        media = sample.open()
        frames = np.stack(list(media.frames))
        start = int(sample.uid.partition("@")[2])
        assert media.fps == 25 and media.size == frames.shape[1:3]
        assert np.array_equal(frames, whole[start : start + 58])
    with pytest.raises(UserError, match="keeps no clip of the split eval"):
        open_source(f"{curated / table.CLIPS}/eval")
    other = open_source(curated / table.CLIPS, data_dir=tmp_path)
    with pytest.raises(UserError, match="no such file"):
        other[0].open()
    with pytest.raises(UserError, match="is no table of clips"):
        (tmp_path / "x.parquet").write_bytes(b"no")
        open_source(tmp_path / "x.parquet")


def test_films_go_to_training_or_evaluation_as_a_whole(curated, tmp_path):
    out = shutil.copytree(curated, tmp_path / "clips")
    keep = run.Filter(thresholds=read_thresholds(None), eval_share=0.5)
    split = {(row["source_sha256"], row["split"]) for row in run.refilter(out, keep)}
    assert len(split) == 3
    assert {row["split"] for row in table_of(curated)} == {"train"}


def test_a_truncated_film_keeps_the_shots_before_its_end(raw, tmp_path):
    path = film(tmp_path / "cut.mkv", shot(4, 60), shot(5, 60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    rows = curate_file(path, sha256_of(path), CurateConfig(), Scorers())
    assert rows[0]["frames"] == 58 and "error" not in rows[0]
    assert "truncated" in rows[-1]["error"] or "corrupt" in rows[-1]["error"]
    assert rows[-1]["start_frame"] >= 58


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    from PIL import Image

    Image.fromarray(shot(0, 1)[0]).save(tmp_path / "a.png")
    out = tmp_path / "clips"
    (row,) = run.curate(tmp_path, out, progress=False)
    assert row["kept"] and row["frames"] == 1 and row["fps"] == 0
    assert row["score.motion.mean"] is None


def test_a_file_that_changes_while_it_is_read_is_one_line(tmp_path, monkeypatch):
    path = film(tmp_path / "raw" / "a.mp4", shot(0, 5))

    def grows(*_):
        with path.open("ab") as file:
            file.write(b"more")
        return []

    monkeypatch.setattr(work, "curate_file", grows)
    with pytest.raises(UserError, match="changed while it was read; run again"):
        run.curate(tmp_path / "raw", tmp_path / "clips", progress=False)
    assert not list((tmp_path / "clips" / "progress").glob("*.json"))


def test_places_that_cannot_be_used_are_one_line(tmp_path, curated):
    with pytest.raises(UserError, match="no such folder"):
        run.curate(tmp_path / "none", tmp_path / "clips")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no media"):
        run.curate(tmp_path / "empty", tmp_path / "clips")
    with pytest.raises(UserError, match="holds no clips"):
        run.curate(curated, tmp_path)
    with run.trying_lock(curated / "progress") as free:
        assert free
        with pytest.raises(UserError, match="another run is at work"):
            run.refilter(curated, run.Filter(thresholds={}))


def test_the_stages_are_listed_with_their_defaults(capsys):
    assert main(["curate", "--list-stages"]) == 0
    text = capsys.readouterr().out
    for stage in stages.STAGES:
        assert f"\n{stage}:" in f"\n{text}"
    assert "score seconds [min 2, max 60]" in text and "trim_frames=2" in text


def test_memory_holds_the_samples_of_one_shot(tmp_path, monkeypatch):
    """The longest shot bounds the samples that a long film has at once."""
    most = 0
    cfg = CurateConfig(shots=film_module.ShotsConfig(max_seconds=0.4))

    def measured(index, frame):
        nonlocal most
        most = max(most, index)
        return sampled(index, frame)

    sampled = film_module._sampled
    monkeypatch.setattr(film_module, "_sampled", measured)
    path = film(tmp_path / "a.mp4", shot(0, 100))
    info = film_module.probe_file(path)
    held = [
        (clip.shot.start, [s.index for s in clip.samples], most)
        for clip in film_module._clips(path, info, cfg)
    ]
    assert [start for start, *_ in held] == list(range(0, 100, 10))
    for start, samples, read in held:
        assert all(start <= index < start + 10 for index in samples)
        assert read < start + 30


@pytest.mark.slow
def test_prepare_encodes_the_kept_clips(curated, tmp_path):
    words = ["--source", str(curated / table.CLIPS), "--out", str(tmp_path / "data")]
    assert main(["prepare", *words, "--no-conditions"]) == 0
    data = open_dataset(tmp_path / "data")
    assert sorted(set(data.sources())) == ["a.mp4@0", "sub/b.mp4@0", "sub/b.mp4@62"]
