"""From prompts to videos: exactly what was asked for, whatever else was."""

import dataclasses
import json

import numpy as np
import pytest

from soraxla.checkpoints.model_folder import CONFIG, save_folder
from soraxla.generation.pipeline import assemble, load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Animate
from soraxla.generation.tasks import sampling
from soraxla.packing.patchify import patchify
from tests import tiny
from tests.generation import fake

SETTINGS = SamplingConfig(steps=2, cfg_scale=3.0, seed=5)
CLIP = Request(prompt="a red ball rolls", width=50, height=38, frames=7, fps=12.0)
PICTURE = Request(prompt="a green box", width=33, height=17)
SHORT = Request(prompt="it rains", width=16, height=16, frames=5)


@pytest.fixture(scope="module")
def pipeline():
    """The transformer compiles; `test_pipeline_tasks.py` has the VAE too."""
    with pytest.MonkeyPatch.context() as patch:
        fake.replace_vae(patch)
        yield assemble(tiny.loaded_dit(), tiny.loaded_vae())


def make(pipeline, requests, settings=SETTINGS):
    return dict(pipeline.generate_each(requests, settings))


@pytest.fixture(scope="module")
def together(pipeline):
    return make(pipeline, [CLIP, PICTURE, SHORT])


def assert_alike(one, other):
    """Equal but for what rounds the other way."""
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= 1
    assert (one == other).mean() > 0.99


# --- What is asked for ------------------------------------------------------------


def test_videos_have_exactly_the_size_asked_for(together):
    shapes = [together[place].shape for place in range(3)]
    assert shapes == [(7, 38, 50, 3), (1, 17, 33, 3), (5, 16, 16, 3)]
    for video in together.values():
        assert video.dtype == np.uint8 and video.std() > 1


def test_a_video_is_the_same_alone_and_among_others(pipeline, together):
    """Rows, neighbours and their sizes are nothing to it; its place is."""
    alone = make(pipeline, [CLIP])[0]
    assert_alike(alone, together[0])
    others = make(pipeline, [SHORT, PICTURE])
    assert_alike(others[1], together[1])
    assert np.abs(others[0].astype(int) - together[2]).mean() > 2  # another place


def test_seed_prompt_and_negative_prompt_matter(pipeline, together):
    """The same compiled sampler: none of the three is built into it."""
    requests = [CLIP, PICTURE, SHORT]
    changed = dataclasses.replace(PICTURE, prompt="a green sea")
    for other in (
        make(pipeline, requests, dataclasses.replace(SETTINGS, seed=6)),
        make(pipeline, [CLIP, changed, SHORT]),
        make(pipeline, requests, dataclasses.replace(SETTINGS, negative_prompt="fog")),
    ):
        assert np.abs(other[1].astype(int) - together[1]).mean() > 0.05
    assert_alike(make(pipeline, [CLIP, changed, SHORT])[0], together[0])


def test_one_prompt_is_one_video_and_solvers_have_names(pipeline, monkeypatch):
    named = []

    def watched(model, process, solver, guidance):
        named.append(solver)
        return fake.sampler()

    monkeypatch.setattr("soraxla.generation.pipeline.sampler", watched)
    settings = {"steps": 2, "solver": "heun", "cfg_scale": 1.0}
    video = pipeline.generate("a dot", size=(33, 17), **settings)
    assert video.frames.shape == (1, 17, 33, 3) and named == ["heun"]
    assert (video.fps, video.request.prompt) == (24.0, "a dot")
    [same] = pipeline.generate([video.request], **settings)
    np.testing.assert_array_equal(same.frames, video.frames)
    assert pipeline.generate([], **settings) == []


def clips_of(pipeline, requests):
    """The first clip of each, and its text."""
    clips = {i: next(sampling(pipeline.context(r))) for i, r in enumerate(requests)}
    prompts = [request.prompt for request in requests]
    return clips, dict(enumerate(pipeline.text_encoder(prompts)))


def test_rows_that_do_not_fit_together_are_sampled_in_turn(pipeline, monkeypatch):
    """Every clip still comes with its own place, and is what it was."""
    monkeypatch.setattr("soraxla.generation.pipeline.sampler", fake.sampler)
    wide = Request(prompt="a wide one", width=512, height=512)  # fills a row
    clips, texts = clips_of(pipeline, [CLIP, PICTURE, wide])

    def sampled(at_once):
        name = "soraxla.generation.batching._TOKENS_AT_ONCE"
        monkeypatch.setattr(name, at_once)
        batches = len(list(pipeline.rows(clips, texts, SETTINGS)))
        return batches, dict(pipeline.sample_clips(clips, texts, SETTINGS))

    (one, together), (two, in_turn) = sampled(8192), sampled(128)
    assert (one, two) == (1, 2) and sorted(in_turn) == [0, 1, 2]
    for place, latents in together.items():
        np.testing.assert_array_equal(in_turn[place], latents)


# --- From a picture ---------------------------------------------------------------


def picture(seed=0, height=60, width=50):
    """Smooth, so that scaling changes it little."""
    y, x = np.mgrid[:height, :width] / 60.0
    waves = [np.sin(3 * (x + y) + seed + k) for k in range(3)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


FROM_IMAGE = dataclasses.replace(CLIP, task=Animate(first=picture()[None]))


@pytest.fixture(scope="module")
def from_image(pipeline):
    return make(pipeline, [FROM_IMAGE, PICTURE, SHORT])


def test_a_video_starts_with_its_picture(from_image, together):
    """50x60 pixels cut to 50x38; what stands beside it is what it was."""
    video = from_image[0]
    assert video.shape == (7, 38, 50, 3)
    np.testing.assert_array_equal(video[0], picture()[11:49])
    assert np.abs(video.astype(int) - together[0])[5:].mean() > 1
    for place in (1, 2):
        assert_alike(from_image[place], together[place])


def test_a_video_from_a_picture_is_the_same_alone_and_among_others(
    pipeline, from_image
):
    assert_alike(make(pipeline, [FROM_IMAGE])[0], from_image[0])


def test_another_picture_is_another_video(pipeline, from_image):
    """Past the frames that fade from it, too."""
    other = dataclasses.replace(FROM_IMAGE, task=Animate(first=picture(seed=2)[None]))
    changed = make(pipeline, [other, PICTURE, SHORT])
    assert np.abs(changed[0].astype(int) - from_image[0])[5:].mean() > 0.5
    assert_alike(changed[1], from_image[1])


def test_the_pictures_latents_go_in_and_come_out_to_the_bit(pipeline):
    """One latent frame, what the VAE makes of the picture, in the prompt's rows and
    the negative prompt's."""
    requests = [FROM_IMAGE, PICTURE]
    clips = {i: next(sampling(pipeline.context(r))) for i, r in enumerate(requests)}
    texts = dict(enumerate(pipeline.text_encoder([r.prompt for r in requests])))
    [(places, (batch, negative))] = pipeline.rows(clips, texts, SETTINGS)
    seen = np.pad(picture()[11:49], ((0, 10), (0, 14), (0, 0)), mode="edge")[None]
    latents = fake.encode_clip(None, tiny.VAE, seen)
    tokens = patchify(latents, tiny.DIT.patch)
    segment = np.asarray(batch.segment_ids) == 1 + places.index(0)
    assert segment.sum() == 3 * len(tokens) and batch.condition_mask.sum() == len(
        tokens
    )
    for rows in (batch, negative):
        assert np.all(rows.condition_mask <= segment)
        np.testing.assert_array_equal(rows.latents[rows.condition_mask], tokens)
        assert np.all(rows.token_index[rows.condition_mask] == np.arange(len(tokens)))
    out = dict(pipeline.sample_clips(clips, texts, SETTINGS))
    np.testing.assert_array_equal(out[0][:1], latents)


# --- Bad input --------------------------------------------------------------------


def one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "  "}, "prompt has 0 words, expected 1 to 1000"),
        ({"prompt": "word " * 10_000}, "prompt has 10000 words"),
        ({"width": 15}, "width is 15, expected 16 to 8192"),
        ({"height": 10**9}, "height is 1000000000, expected"),
        ({"frames": 0}, "frames is 0, expected 1 to"),
        ({"frames": 10**7}, "frames is 10000000, expected"),
        ({"fps": 0.0}, r"fps is 0\.0, expected"),
        ({"fps": float("nan")}, "fps is nan, expected"),
        ({"overlap": 4}, "overlap is 4, expected 5 to"),
        ({"window": 12}, "window is 12, expected 13 to"),
        (
            {"task": Animate(first=picture()[None]), "frames": 1},
            "expected more than the input's 1",
        ),
        ({"task": Animate(first=picture())}, r"the first is uint8 \(60, 50, 3\), exp"),
        ({"task": Animate(last=picture()[None] / 255)}, "the last is float64 .*, exp"),
        ({"task": Animate(last=picture()[None, :0])}, r"uint8 \(1, 0, 50, 3\), exp"),
        ({"task": Animate(first=np.stack([picture()] * 2))}, "a clip of 2 frames, exp"),
    ],
)
def test_absurd_requests_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(CLIP, **wrong)
    one_line(error)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0, expected 1 to 1000"),
        ({"solver": "heum"}, r"unknown solver 'heum': did you mean 'heun'\?"),
        ({"cfg_scale": -1.0}, r"cfg_scale is -1\.0, expected"),
        ({"cfg_scale": float("inf")}, "cfg_scale is inf, expected"),
        ({"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296, expected"),
    ],
)
def test_absurd_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(SETTINGS, **wrong)
    one_line(error)


def with_config(loaded, **changes):
    return dataclasses.replace(loaded, config={**loaded.config, **changes})


def test_models_that_do_not_fit_together_are_refused():
    dit, vae = tiny.loaded_dit(), tiny.loaded_vae()
    small = dataclasses.replace(
        vae.model, latent_channels=2, latent_mean=(), latent_std=()
    )
    bare = dataclasses.replace(vae.model, latent_mean=(), latent_std=())
    for loaded, other, message in (
        (dit, dataclasses.replace(vae, model=bare), "VAE has no latent statistics"),
        (
            dit,
            dataclasses.replace(vae, model=small),
            "expects 4 latent channels.*has 2",
        ),
        (with_config(dit, text_encoder="hashed:8"), vae, "16 text width.*has 8"),
        (with_config(dit, text_encoder="t6"), vae, "unknown text encoder 't6'"),
        (with_config(dit, text_encoder="t5:/gone"), vae, "/gone: no such folder"),
        (with_config(dit, process={"schedul": 1}), vae, r"'process\.schedul'"),
        (with_config(dit, max_latent_frames="9"), vae, "max_latent_frames is '9'"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            assemble(loaded, other)
        one_line(error)


def test_a_folder_is_loaded_or_refused(pipeline, tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder") as error:
        load(tmp_path / "nowhere")
    one_line(error)
    with pytest.raises(ValueError, match="no dit weights here") as error:
        load(tmp_path)
    one_line(error)
    save_folder(tmp_path / "dit", pipeline.dit.params, pipeline.dit.config)
    with pytest.raises(ValueError, match="no vae weights here") as error:
        load(tmp_path)
    one_line(error)
    save_folder(tmp_path / "vae", pipeline.vae.params, pipeline.vae.config)
    loaded = load(str(tmp_path))
    assert loaded.dit.model == tiny.DIT and loaded.vae.model == tiny.VAE
    assert loaded.process == pipeline.process
    config = tmp_path / "dit" / CONFIG
    text = json.loads(config.read_text())
    config.write_text(json.dumps({**text, "process": {"prediction": "noise"}}))
    with pytest.raises(ValueError, match=r"process\.prediction.*noise") as error:
        load(tmp_path)
    one_line(error)
