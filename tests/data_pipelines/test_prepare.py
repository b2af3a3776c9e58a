"""Prepare: sizes and cuts, what is skipped, and interruption at any instant."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines import records
from data_pipelines.encoders import Encoders
from data_pipelines.prepare import prepare
from soraxla.core.errors import UserError
from soraxla.media.read import read_clip
from soraxla.media.write import write_video
from tests.marks import slow

DOC = Path(__file__).parents[2] / "docs" / "dataset.md"


class Killed(BaseException):
    """Stands for the end of the process."""


def encode_video(frames):
    """Means of 8 x 8 x 4 pixels: as causal as the VAE, and a function of the pixels."""
    t, height, width = frames.shape[:3]
    x = frames.astype(np.float32).reshape(t, height // 8, 8, width // 8, 8, 3)
    x = x.mean((2, 4)) / 255
    later = x[1:].reshape(t // 4, 4, *x.shape[1:]).mean(1)
    return np.concatenate([x[:1], later])


def encode_videos(videos):
    return np.stack([*map(encode_video, videos)])


def encode_text(texts):
    return [np.full((1 + len(t.split()), 5), len(t), np.float32) for t in texts]


def run(
    source,
    out,
    *,
    encode_video=encode_video,
    encode_text=encode_text,
    vae_spatial=8,
    **changes,
):
    """Prepares with an encoder of one clip."""
    settings = dict(
        encode=Encoders(
            videos=lambda videos: np.stack([*map(encode_video, videos)]),
            text=encode_text,
            channels=3,
            spatial=vae_spatial,
        ),
        vae_dir=None,
        vae_sha256="abc",
        text_encoder="counting",
        conditions=False,
        shard_bytes=720,  # of the media: one clip, or two or three pictures
        progress=False,
    )
    return prepare(source, out, **(settings | changes))


def noise(frames, height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, height // 8 + 1, width // 8 + 1, 3))
    full = coarse.astype(np.uint8).repeat(8, 1).repeat(8, 2)
    return full[:, :height, :width]


@pytest.fixture
def media(tmp_path):
    """Five captioned files: pictures, clips, one of them cut into pieces."""
    folder = tmp_path / "media"
    folder.mkdir()
    sizes = {
        "long.mp4": (23, 32, 48),
        "short.mp4": (7, 36, 34),
        "square.png": (1, 32, 32),
        "odd.png": (1, 47, 33),
        "two.webp": (2, 16, 16),
    }
    lines = []
    for seed, (name, size) in enumerate(sizes.items()):
        write_video(folder / name, noise(*size, seed=seed), 16)
        lines.append(json.dumps({"file": name, "caption": f"the caption of {name}"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def index(out):
    return pq.read_table(out / records.INDEX).to_pylist()


def record(out, row):
    reader = ArrayRecordReader(str(out / records.shard_name(row["shard"])))
    return records.decode_record(reader.read([row["record"]])[0])


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_pieces_are_cropped_trimmed_and_cut_but_never_resampled(media, tmp_path):
    out = tmp_path / "out"
    card = run(media, out, max_tokens=18)  # 6 tokens a latent frame: pieces of 9
    rows = index(out)
    assert card == json.loads((out / records.CARD).read_text())
    assert card["samples"] == len(rows) == 7
    assert card["cut_clips"] == 1
    assert card["tokens"] == sum(r["t"] * r["h"] * r["w"] // 4 for r in rows)
    assert (card["latent_channels"], card["text_width"]) == (3, 5)
    assert [r["uid"] for r in rows[:3]] == ["long.mp4", "long.mp4#9", "long.mp4#18"]
    assert [r["frames"] for r in rows] == [9, 9, 5, 5, 1, 1, 1]
    assert all(r["t"] * r["h"] * r["w"] <= 18 * 4 for r in rows)
    assert [r["fps"] for r in rows[3:6]] == [16, 0, 0]
    assert rows[3]["crop"] == [2, 1, 32, 32]
    for row in rows:
        top, left, height, width = row["crop"]
        clip = read_clip(media / row["source"])
        start = row["start_frame"]
        pixels = clip[start : start + row["frames"]]
        pixels = pixels[:, top : top + height, left : left + width]
        sample = record(out, row)
        assert sample["latents"].shape == (row["t"], row["h"], row["w"], 3)
        assert (row["height"], row["width"]) == (height, width)
        expected = encode_video(pixels).astype(sample["latents"].dtype)
        np.testing.assert_array_equal(sample["latents"], expected)
        assert len(sample["text"]) == row["text_length"]
        assert row["caption"] == f"the caption of {row['source']}"


def test_a_dataset_reads_back_with_the_snippet_of_the_docs(media, tmp_path, capsys):
    run(media, tmp_path / "out")
    (snippet,) = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert "soraxla" not in snippet and "data_pipelines" not in snippet
    exec(snippet.replace("my_dataset/", f"{tmp_path}/out/"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(index(tmp_path / "out"))
    assert lines[0] == "long.mp4 the caption of long.mp4 (6, 4, 6, 3) (5, 5)"


def dying_at(call):
    """`encode_video` that stops the process at its call number `call`."""
    count = 0

    def encode(frames):
        nonlocal count
        count += 1
        if count == call:
            raise Killed
        return encode_video(frames)

    return encode


@pytest.mark.parametrize("call", range(1, 6))
def test_interrupted_while_encoding_the_result_is_the_same_bytes(media, tmp_path, call):
    (media / "square.png").write_bytes(b"not a picture")
    whole, out = tmp_path / "whole", tmp_path / "out"
    settings = {"max_tokens": 24, "max_bad": 0.2}
    run(media, whole, **settings)
    with pytest.raises(Killed):
        run(media, out, encode_video=dying_at(call), **settings)
    assert not (out / records.CARD).exists()
    shards_done = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2}[call]
    assert len(list(out.glob("data-*.array_record"))) == shards_done
    run(media, out, **settings)
    assert content(out) == content(whole)
    assert set(content(out)) == {
        *("dataset.json", "index.parquet", "skipped.jsonl", "empty_text.safetensors"),
        *(records.shard_name(shard) for shard in range(3)),
    }


@pytest.mark.parametrize("renamed", [*slow(False), True], ids=["before", "after"])
def test_interrupted_at_any_rename_the_result_is_the_same_bytes(
    media, tmp_path, monkeypatch, renamed
):
    vae = tmp_path / "weights"
    (vae / "blocks").mkdir(parents=True)
    (vae / "blocks" / "0.safetensors").write_bytes(b"weights")
    run(media, tmp_path / "whole", vae_dir=vae)
    expected, replace = content(tmp_path / "whole"), os.replace
    assert "vae/blocks/0.safetensors" in expected

    for call in range(1, 100):
        out, count = tmp_path / f"out{call}", 0

        def dying(source, target, call=call):
            nonlocal count
            count += 1
            if count == call and not renamed:
                raise Killed
            replace(source, target)
            if count == call:
                raise Killed

        monkeypatch.setattr(os, "replace", dying)
        try:
            run(media, out, vae_dir=vae)
        except Killed:
            monkeypatch.setattr(os, "replace", replace)
            run(media, out, vae_dir=vae)
        else:
            break
        assert content(out) == expected, f"killed at rename {call}"
    # Renames of a run: 1, 1 a part, 2 a shard, 5 at the end, and none.
    assert call == 1 + 5 + 2 * 4 + 5 + 1


@pytest.mark.slow
def test_a_killed_process_goes_on(media, tmp_path):
    """The end of a process runs no clean-up, unlike an exception."""
    run(media, tmp_path / "whole")
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_prepare as t
class Exit(BaseException):
    def __init__(self):
        os._exit(9)
t.Killed = Exit
t.run({str(media)!r}, {str(tmp_path / "out")!r}, encode_video=t.dying_at(4))
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    assert (
        subprocess.run([sys.executable, "-c", script], env=environment).returncode == 9
    )
    assert list((tmp_path / "out").glob("progress/*/*.records"))
    run(media, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_finished_dataset_is_left_as_it_is(media, tmp_path):
    card = run(media, tmp_path / "out")
    before = content(tmp_path / "out")

    def never(_):
        raise AssertionError("encoded again")

    assert run(media, tmp_path / "out", encode_video=never, encode_text=never) == card
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    "change",
    [{"vae_sha256": "other"}, {"text_encoder": "other"}, {"max_tokens": 99}, "caption"],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_into_the_same_folder_are_refused(
    media, tmp_path, change, finished
):
    out = tmp_path / "out"
    if finished:
        run(media, out)
    else:
        with pytest.raises(Killed):
            run(media, out, encode_video=dying_at(4))
    before = content(out)
    if change == "caption":
        listing = media / "captions.jsonl"
        listing.write_text(listing.read_text().replace("caption of two", "film of two"))
        change = {}
    with pytest.raises(ValueError, match=r"another source.*remove the folder") as error:
        run(media, out, **change)
    assert "\n" not in str(error.value)
    assert content(out) == before


def test_two_runs_do_not_write_one_folder(media, tmp_path):
    refused = []

    def meanwhile(frames):
        if not refused:
            refused.append(1)
            with pytest.raises(UserError, match="another run is at work here"):
                run(media, tmp_path / "out")
        return encode_video(frames)

    run(media, tmp_path / "out", encode_video=meanwhile)
    run(media, tmp_path / "plain")
    assert refused and content(tmp_path / "out") == content(tmp_path / "plain")


def test_a_folder_of_other_things_is_not_touched(media, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and holds no dataset"):
        run(media, out)
    assert content(out) == {"thesis.txt": b"years of work"}
    with pytest.raises(ValueError, match="is a file; name a folder"):
        run(media, out / "thesis.txt")


def test_bad_media_are_skipped_with_the_reason(media, tmp_path):
    (media / "two.webp").write_bytes(b"")
    write_video(media / "square.png", noise(1, 12, 40), 0)
    data = (media / "long.mp4").read_bytes()
    (media / "long.mp4").write_bytes(data[: len(data) * 2 // 3])
    out = tmp_path / "out"
    card = run(media, out, max_tokens=12, max_bad=0.6)
    assert (card["samples"], card["skipped"]) == (2, 3)
    lines = (out / records.SKIPPED).read_text().splitlines()
    reasons = {r["file"]: r["reason"] for r in map(json.loads, lines)}
    assert re.match(r"is truncated \(.* s can be read\)", reasons["long.mp4"])
    assert reasons["square.png"] == "is 40x12 pixels, but a side needs at least 16"
    assert reasons["two.webp"] == "is empty (0 bytes); copy it again"
    # Pieces of the truncated film that could be read are not in the dataset either.
    assert {row["source"] for row in index(out)} == {"short.mp4", "odd.png"}


def test_too_many_bad_media_stop_the_run_which_can_then_be_allowed(media, tmp_path):
    (media / "short.mp4").write_bytes(b"no film")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"1 of 5 .* 5\.0%.* short\.mp4: is corr") as e:
        run(media, out, max_bad=0.05)
    assert "\n" not in str(e.value)
    assert json.loads((out / records.SKIPPED).read_text())["file"] == "short.mp4"
    assert not (out / records.CARD).exists()
    assert run(media, out, max_bad=0.2)["samples"] == 4


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(b"no picture")
    (tmp_path / "media" / "a.txt").write_text("a caption")
    with pytest.raises(ValueError, match="none of 1 samples can be used"):
        run(tmp_path / "media", tmp_path / "out", max_bad=1.0)


@pytest.mark.parametrize("broken", [ValueError("out of memory"), OSError("no device")])
def test_a_failing_encoder_is_not_taken_for_bad_media(media, tmp_path, broken):
    def failing(_):
        raise broken

    with pytest.raises(type(broken), match=str(broken)):
        run(media, tmp_path / "out", encode_video=failing, max_bad=1.0)


def test_latents_that_are_not_finite_are_skipped(media, tmp_path):
    def sometimes(frames):
        return encode_video(frames) * (np.nan if len(frames) > 10 else 1)

    assert run(media, tmp_path / "out", encode_video=sometimes, max_bad=0.2)["skipped"]


@pytest.mark.parametrize("change", [{"max_tokens": 0}, {"max_bad": 2.0}])
def test_absurd_settings_are_refused_before_anything_is_written(
    media, tmp_path, change
):
    with pytest.raises(ValueError, match="expected"):
        run(media, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_a_vae_of_16_pixels_crops_to_multiples_of_32(media, tmp_path):
    """The file two.webp is too small; a side of 48 or 33 gives 32."""

    def coarse(frames):
        x = encode_video(frames)
        t, h, w, c = x.shape
        return x.reshape(t, h // 2, 2, w // 2, 2, c).mean((2, 4))

    card = run(media, tmp_path / "out", encode_video=coarse, vae_spatial=16, max_bad=1)
    assert (card["vae_spatial"], card["skipped"]) == (16, 1)
    rows = index(tmp_path / "out")
    assert {(row["height"], row["width"]) for row in rows} == {(32, 32)}
    assert {(row["h"], row["w"]) for row in rows} == {(2, 2)}
    with pytest.raises(ValueError, match="another --out"):
        run(media, tmp_path / "out", max_bad=1)


def test_a_writer_s_error_names_the_file(tmp_path):
    with (
        pytest.raises(UserError, match="a: cannot be written \\(no space\\)"),
        records.writing(tmp_path / "a"),
    ):
        raise RuntimeError("no space\nand a page of it")
