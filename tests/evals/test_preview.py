"""A preview of a training: its inputs, and the files that it ignores."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.model_folder import save_folder
from soraxla.diffusion.process import Process
from soraxla.evals.evaluator import EvaluationContext
from soraxla.evals.preview import Preview, preview_rows, shown_samples
from soraxla.media.contact_sheet import contact_sheet
from soraxla.media.write import write_video
from soraxla.parallel.mesh import one_device
from tests import tiny
from tests.data_pipelines.datasets import write_dataset
from tests.generation import fake


def context(**parts):
    parts = {"step": 3, "seed": 0, "workdir": Path(), "mesh": one_device(), **parts}
    return EvaluationContext(**parts)


def test_the_text_encoder_need_not_be_there(tmp_path, monkeypatch):
    """A fine-tuning's is large, and its folder on the machine that prepared."""
    fake.replace_models(monkeypatch)
    data = write_dataset(tmp_path / "dataset", text_width=16)
    card = json.loads((data / "dataset.json").read_text())
    card["text_encoder"] = "umt5:/not/here"
    (data / "dataset.json").write_text(json.dumps(card))
    vae = tiny.loaded_vae()
    save_folder(data / "vae", vae.params, vae.config)
    dit = tiny.loaded_dit()
    training = context(
        params=dit.params,
        model=dit.model,
        process=Process(),
        dataset=open_dataset(data),
        workdir=tmp_path,
    )
    drawn = []

    def draw(rows, titles):
        drawn.append((rows, titles))
        return contact_sheet(rows, titles=titles)

    monkeypatch.setattr("soraxla.evals.preview.contact_sheet", draw)
    assert Preview(every=1).run(training) == {}
    sheet = Image.open(tmp_path / "previews" / "step_0000003.png")
    assert np.asarray(sheet).std() > 0
    [(rows, _)] = drawn
    with Image.open(tmp_path / "previews" / "step_0000003.webp") as video:
        assert getattr(video, "n_frames") == max(len(r.clips[0]) for r in rows)  # noqa: B009
    for row in rows:
        video, sample = row.clips
        assert video.shape == sample.shape and np.any(video != sample)


def test_previews_show_samples_of_all_sizes_and_other_captions(tmp_path):
    grids = [(1, 4, 4)] * 6 + [(5, 4, 4)] * 2 + [(2, 4, 4)] * 4 + [(3, 8, 8)] * 4
    dataset = open_dataset(write_dataset(tmp_path / "dataset", grids, text_width=16))
    sizes, shown = dataset.sizes, shown_samples(dataset)
    assert shown == shown_samples(dataset)
    tokens = [int(sizes.t[i] * sizes.h[i] * sizes.w[i]) for i in shown]
    assert tokens == [16, 32, 80, 192]
    captions = dataset.index["caption"].to_pylist()
    assert len({captions[i] for i in shown}) == len(shown) == 4


def test_one_caption_is_shown_once(tmp_path, monkeypatch):
    dataset = open_dataset(write_dataset(tmp_path / "dataset", text_width=16))
    index = {"caption": pa.array(["a dot"] * len(dataset))}
    monkeypatch.setitem(dataset.__dict__, "index", index)
    assert len(shown_samples(dataset)) == 1


def test_files_are_read_for_a_preview_alone_and_tiny_ones_left_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("soraxla.evals.preview.encode_clip", fake.encode_clip)
    monkeypatch.setattr("soraxla.evals.preview.decode_clip", fake.decode_clip)
    write_video(tmp_path / "tiny.png", [np.zeros((4, 4, 3), np.uint8)], 1)
    frames = np.random.default_rng(0).integers(0, 256, (23, 16, 24, 3), np.uint8)
    write_video(tmp_path / "clip.gif", frames, 24)
    (tmp_path / "words.mp4").write_text("no film")

    def sheet(*names):
        files = [tmp_path / name for name in names]
        vae = tiny.loaded_vae()
        rows, _ = preview_rows(context(params=vae.params, model=vae.model, media=files))
        return rows

    both, one = sheet("tiny.png", "clip.gif"), sheet("clip.gif")
    assert [row.caption for row in both] == [row.caption for row in one] == ["clip.gif"]
    for clip, other in zip(both[0].clips, one[0].clips, strict=True):
        np.testing.assert_array_equal(clip, other)
    with pytest.raises(ValueError, match="corrupt or not a video"):
        sheet("words.mp4")
