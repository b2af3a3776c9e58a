"""Sixty seconds at 320x180 need the host's memory of ten, from file to file."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from soraxla.core.config import to_dict
from soraxla.generation.pipeline import Pipeline, assemble
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.task_inputs import Edit, Extend
from soraxla.media.lazy_video import LazyVideo
from soraxla.media.read import lazy_clip, probe
from soraxla.media.write import write_video
from tests import tiny

WIDTH, HEIGHT, FPS = 320, 180, 24.0
# The VAE reads and makes floats of four frames at once.
CHUNK = 4 * WIDTH * HEIGHT * 3 * 4
VAE = replace(  # a quick one
    tiny.VAE,
    multipliers=(1, 2),
    res_blocks=(1, 0),
    temporal_down=(False,),
    pixel_patch=4,
    frame_patch=4,
)


@pytest.fixture(scope="module")
def pipeline():
    config = {"kind": "vae", "model": to_dict(VAE)}
    vae = replace(
        tiny.loaded_vae(), params=tiny.vae_params(VAE), model=VAE, config=config
    )
    return assemble(tiny.loaded_dit(), vae)


def film(path, frames):
    x = np.arange(HEIGHT)[:, None] + np.arange(WIDTH)

    def frame(t):
        return np.repeat((x + 3 * t).astype(np.uint8)[:, :, None], 3, axis=2)

    video = LazyVideo((frames, HEIGHT, WIDTH, 3), lambda a, b: map(frame, range(a, b)))
    write_video(path, video, FPS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Extend, Edit])
def test_a_minute_needs_the_memory_of_ten_seconds(
    pipeline, monkeypatch, tmp_path, kind
):
    """Half of the extended film is its input, and all of the edited one.

    Pixels are those of three chunks at most. Latents are held whole, in a few copies;
    they are a fiftieth of the pixels.
    """

    def sampled(self, clips, *_, **__):
        for key, clip in clips.items():
            yield key, np.zeros_like(clip.latents)

    monkeypatch.setattr(Pipeline, "sample_clips", sampled)

    def peak(seconds):
        frames, out = round(seconds * FPS), tmp_path / "out.mp4"
        film(tmp_path / "in.mp4", frames if kind is Edit else frames // 2)
        tracemalloc.start()
        try:
            request = Request(
                prompt="x",
                width=WIDTH,
                height=HEIGHT,
                frames=frames,
                fps=FPS,
                task=kind(video=lazy_clip(tmp_path / "in.mp4")),
            )
            settings = SamplingConfig(takes=2 if kind is Extend else 1)
            for _, video in pipeline.generate_lazily([request], settings):
                write_video(out, video, FPS)
            found = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert probe(out).frames == frames
        return found

    peak(1)  # compiles
    for seconds in (10, 60):
        made = seconds * FPS * (1 if kind is Edit else 0.5)
        latents = made / 4 * 24 * 40 * 4 * 4  # bytes, of 4 channels
        assert peak(seconds) < 3 * CHUNK + 8 * latents < made * WIDTH * HEIGHT * 3
