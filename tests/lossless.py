"""Tasks over a VAE that loses nothing, for tests of their clips and videos.

A latent is its 4 frames (the first one its one), so that with an oracle for a sampler
every task has to return the truth to the bit.
"""

import numpy as np

from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.generation.context import TaskContext
from soraxla.generation.request import Request
from soraxla.generation.tasks import sampling
from soraxla.models.vae.model import VAEConfig

SIDE, FRAMES = 32, 65
CFG = VAEConfig(base_width=1, latent_channels=4 * 8 * 8 * 3)
TRUTH = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, TRUTH.shape, np.uint8)


def encode(params, cfg, video):
    """Frames 1 + 4k to latents (k + 1, h / 8, w / 8, 4·8·8·3)."""
    video = np.asarray(video)
    video = np.concatenate([np.zeros_like(video[:1]).repeat(3, axis=0), video])
    t, h, w, _ = video.shape
    cut = video.reshape(t // 4, 4, h // 8, 8, w // 8, 8, 3)
    z = cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(t // 4, h // 8, w // 8, -1)
    return z.astype(np.float32)


def decode(params, cfg, latents):
    t, h, w, _ = latents.shape
    cut = latents.reshape(t, h, w, 4, 8, 8, 3).transpose(0, 3, 1, 4, 2, 5, 6)
    return cut.reshape(4 * t, 8 * h, 8 * w, 3)[3:].astype(np.uint8)


def decode_stream(params, cfg, latents):
    yield decode(params, cfg, latents)


def context_of(task, frames, limit=None, **changes):
    settings = {"prompt": "", "width": SIDE, "height": SIDE, "fps": 12.0} | changes
    request = Request(task=task, frames=frames, **settings)
    vae = LoadedModel(params=None, model=CFG, config={})
    return TaskContext(request=request, vae=vae, patch=(1, 2, 2), limit=limit)


def drive(job, sample):
    """Returns the video of a task, sampled by sample(clip), and its clips."""
    steps, asked = sampling(job), []
    try:
        clip = next(steps)
        while True:
            asked.append(clip)
            clip = steps.send(sample(clip))
    except StopIteration as done:
        return np.asarray(done.value), asked


def oracle(*pieces):
    """For the clips in turn: (frames of the truth, its first latent in them, or 0).

    What a clip says that it knows has to be the truth.
    """
    turns = iter(pieces)

    def sample(clip):
        video, start = next(turns)
        truth = encode(None, CFG, video)[start : start + clip.grid.t]
        assert truth.shape == clip.latents.shape
        np.testing.assert_array_equal(
            clip.latents[clip.condition_mask], truth[clip.condition_mask]
        )
        for given in clip.appended:
            first = round(4 * (start + given.place))
            frames = video[first : first + 1 + 4 * (len(given.latents) - 1)]
            np.testing.assert_array_equal(given.latents, encode(None, CFG, frames))
        return truth

    return sample


def condition_frames(clip):
    """Returns latent frames of conditions in place, and places of appended ones."""
    return int(clip.condition_mask[:, 0, 0].sum()), [
        given.place for given in clip.appended
    ]


def anything(clip):
    """A sampler that has no idea."""
    return encode(None, CFG, OTHER[: 1 + 4 * (clip.grid.t - 1), : 8 * clip.grid.h])[
        :, :, : clip.grid.w
    ]
