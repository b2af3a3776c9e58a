"""Kept clips become files: bit for bit where packets are copied, else cropped."""

import json
import shutil

import numpy as np
import pytest

from data_pipelines.curate import run, table
from data_pipelines.curate.caption import Captioner
from data_pipelines.curate.film import CurateConfig, Scorers
from data_pipelines.curate.materialize import FOLDER, Made, cut, materialize
from data_pipelines.sources.clips import ClipsSource
from data_pipelines.sources.files import open_source
from soraxla.cli.main import main
from soraxla.core.errors import UserError
from soraxla.media.read import read_clip
from tests.data_pipelines.curate.films import film, shot


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """Two kept shots of a film, of which the second has bars, and a picture."""
    from PIL import Image

    raw = tmp_path_factory.mktemp("raw")
    boxed = shot(1, 60)
    boxed[:, :10] = boxed[:, -10:] = 0
    film(raw / "a.mp4", shot(0, 60), boxed)
    Image.fromarray(shot(2, 1)[0]).save(raw / "b.png")
    out = tmp_path_factory.mktemp("made") / "clips"
    toy = Scorers(captioner=Captioner("toy", lambda pictures: "some words"))
    cfg = CurateConfig(captioner="toy")
    rows = run.curate(raw, out, cfg=cfg, load_scorers=lambda: toy, progress=False)
    assert [row["kept"] for row in rows] == [True] * 3
    return out


def test_packets_are_copied_and_crops_are_encoded(curated, tmp_path):
    out = shutil.copytree(curated, tmp_path / "clips")
    assert materialize(out, progress=False) == Made(copied=1, encoded=2)
    rows, meta = table.read_clips(out / table.CLIPS)
    whole = read_clip(f"{meta['source']}/a.mp4")
    names = [f"{row['clip_id'][:32]}" for row in rows]
    copy = read_clip(out / FOLDER / f"{names[0]}.mp4")
    assert 50 <= len(copy) <= 58 and np.array_equal(copy, whole[: len(copy)])
    top, left, height, width = rows[1]["crop"]
    encoded = read_clip(out / FOLDER / f"{names[1]}.mp4")
    part = whole[62:120, top : top + height, left : left + width]
    assert encoded.shape == part.shape and top > 0
    assert np.abs(encoded - part.astype(np.float32)).mean() < 4
    assert (out / FOLDER / f"{names[2]}.png").is_file()
    lines = (out / FOLDER / "captions.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["caption"] == "some words"
    assert len(open_source(str(out / FOLDER))) == 3
    # Files that are there are kept, and those of dropped clips are removed.
    assert materialize(out, progress=False) == Made(copied=0, encoded=0)
    limits = tmp_path / "t.toml"
    limits.write_text("[borders]\nshare = {min = 0.9}")
    words = ["--out", str(out), "--thresholds", str(limits), "--materialize"]
    assert main(["curate", *words]) == 0
    assert not (out / FOLDER / f"{names[1]}.mp4").exists()
    assert (out / FOLDER / f"{names[0]}.mp4").exists()


def test_a_clip_without_a_key_frame_near_its_beginning_is_not_copied(curated, tmp_path):
    import dataclasses

    sample = ClipsSource(curated / table.CLIPS)[0]
    late = dataclasses.replace(sample, start=sample.start + 20, frames=20)
    assert not cut(late, tmp_path / "a.mp4", 2)
    assert not list(tmp_path.iterdir())


def test_a_film_that_is_gone_is_one_line(curated, tmp_path):
    rows, meta = table.read_clips(curated / table.CLIPS)
    out = tmp_path / "clips"
    (out / "progress").mkdir(parents=True)
    gone = meta | {"source": str(tmp_path / "gone")}
    table.write_clips(out / table.CLIPS, rows, gone)
    with pytest.raises(UserError, match=r"a\.mp4: no such file"):
        materialize(out, progress=False)
