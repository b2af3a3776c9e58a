"""Media that cannot be used: left out, counted, and the same stream on resume."""

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines import records
from data_pipelines.transforms import pieces
from data_pipelines.vae_windows import WindowConfig, WindowDataset, WindowShape
from soraxla.core.errors import UserError
from soraxla.media.read import probe
from tests.data_pipelines.test_prepare import run
from tests.media.cases.films import film, noisy

SHAPES = (WindowShape(frames=5, height=32, width=32, batch=4),)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four films; the header of the second, in front, says nothing of its lost end."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "0.mp4", range(25), base=25, draw=noisy())
    for n in (1, 2, 3):
        shutil.copy(folder / "0.mp4", folder / f"{n}.mp4")
    front = {"movflags": "+faststart"}
    film(folder / "1.mp4", range(25), base=25, draw=noisy(), muxer=front)
    whole = (folder / "1.mp4").read_bytes()
    (folder / "1.mp4").write_bytes(whole[: len(whole) * 7 // 10])
    assert probe(folder / "1.mp4").frames == 25
    return sorted(folder.iterdir())


def windows(files, **settings):
    settings = {"max_bad": 0.5} | settings
    return WindowDataset(files, WindowConfig(shapes=SHAPES, **settings), seed=0)


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_a_film_that_breaks_off_is_left_out_and_said_once(films, cache_bytes, caplog):
    """Its first frames are used where a film is not decoded whole."""
    dataset = windows(films, cache_bytes=cache_bytes)
    assert dataset.unusable == {}  # its header was believed
    with caplog.at_level(logging.WARNING):
        batches = [dataset.batch_at(step)["video"] for step in range(8)]
    assert all(batch.shape == (4, 5, 32, 32, 3) for batch in batches)
    assert list(dataset.unusable) == [films[1]]
    assert "truncated" in dataset.unusable[films[1]]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and said[0].startswith(f"{films[1]} is left out")
    resumed = windows(films, cache_bytes=cache_bytes)  # which has seen no failure yet
    for step in range(7, 3, -1):
        np.testing.assert_array_equal(resumed.batch_at(step)["video"], batches[step])


def test_a_file_that_cannot_be_opened_is_left_out(films, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    files = [films[0], tmp_path / "a.mp4", tmp_path / "gone.mp4", films[2]]
    dataset = windows(files)
    assert dataset.files == [films[0], films[2]]
    assert list(dataset.unusable) == files[1:3]
    assert dataset.for_host(range).unusable is dataset.unusable
    assert dataset.batch_at(0)["video"].shape == (4, 5, 32, 32, 3)


def test_too_many_bad_files_stop_the_training(films, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    text = r"1 of 2 files cannot be used, more than max_bad 5.0%; the last is .*a\.mp4:"
    with pytest.raises(UserError, match=text) as error:
        windows([films[0], tmp_path / "a.mp4"], max_bad=0.05)
    assert "raise windows.max_bad" in str(error.value)
    with pytest.raises(
        UserError, match=r"1 of 4 .* the last is .*1\.mp4: is truncated"
    ):
        dataset = windows(films, max_bad=0.05)
        for step in range(8):
            dataset.batch_at(step)
    with pytest.raises(UserError, match=r"1\.mp4: is truncated"):
        windows([films[1]], max_bad=1.0).batch_at(0)
    with pytest.raises(UserError, match=r"max_bad is 5\.0, expected a share"):
        windows(films, max_bad=5.0)


# --- Preparing --------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    """Twenty captions, the third of a file that is missing."""
    folder = tmp_path / "media"
    folder.mkdir()
    names = [f"{n:02d}.png" for n in range(20)]
    for n, name in enumerate(names):
        if n != 2:
            Image.new("RGB", (16, 16), (n, 0, 0)).save(folder / name)
    rows = [json.dumps({"file": name, "caption": "red"}) for name in names]
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


def test_a_caption_without_its_file_is_skipped(listed, tmp_path):
    card = run(listed, tmp_path / "out", shard_bytes=1 << 20)
    assert (card["samples"], card["skipped"]) == (19, 1)
    text = (tmp_path / "out" / records.SKIPPED).read_text()
    [entry] = map(json.loads, text.splitlines())
    assert entry == {"file": "02.png", "reason": "no such file; check the name"}


def test_too_many_missing_files_stop_before_the_work(listed, tmp_path):
    (listed / "07.png").unlink()
    text = r"2 of 20 files cannot be used, .* 5.0%; the last is .*07\.png: no such file"
    with pytest.raises(UserError, match=text) as error:
        run(listed, tmp_path / "out")
    assert "correct the list of captions" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_film_too_large_for_motion_is_no_heap_of_pictures(tmp_path):
    """Two latent frames of it exceed the limit, one does not."""
    frames = [np.zeros((32, 64, 3), np.uint8)] * 9
    with pytest.raises(UserError, match="5 frames of 64x32 pixels makes 16 tokens"):
        list(pieces(frames, 15))
    assert [len(p.frames) for p in pieces(frames, 16)] == [5]
    assert [len(p.frames) for p in pieces(frames[:1], 15)] == [1]
