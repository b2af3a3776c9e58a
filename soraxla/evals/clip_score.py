"""CLIP score (arXiv 2104.08718) of a video and its prompt, from local weights.

The score is the cosine between CLIP's embeddings of the text and of each frame, as a
percentage, with negative ones as 0, averaged over the frames.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree, UInt8

from soraxla.core.errors import UserError
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.text import clip, clip_vision
from soraxla.models.text.tokens import Tokenizer, clean_markup, load_tokenizer
from soraxla.parallel.compiler import encoder_dtype, jit

_FRAMES = 16  # per batch; the last batch of a video is padded


@dataclass(frozen=True, kw_only=True, eq=False)
class CLIPModel:
    """Both towers of CLIP and the tokenizer."""

    tokenizer: Tokenizer
    text: clip.CLIPTextConfig
    vision: clip_vision.CLIPVisionConfig
    text_params: PyTree = field(repr=False)
    vision_params: PyTree = field(repr=False)
    name: str = "clip_text"

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of both towers' weights."""
        towers = {"text": self.text_params, "vision": self.vision_params}
        return sha256_of_tree(towers)


def load_clip(folder: str | Path) -> CLIPModel:
    """Loads CLIP from a local folder with both towers; published scores use ViT-L/14.

    It computes in bfloat16, on a CPU in float32.

    Raises:
        UserError: as `models.text.folder` and `models.text.tokens.load_tokenizer`.
    """
    path = Path(folder).expanduser().resolve()
    dtype = encoder_dtype()
    text_params, text = clip.load(path, dtype, projected=True)
    vision_params, vision = clip_vision.load(path, dtype)
    return CLIPModel(
        tokenizer=load_tokenizer(path, text.max_position_embeddings, clean_markup),
        text=text,
        vision=vision,
        text_params=text_params,
        vision_params=vision_params,
    )


def clip_score(
    model: CLIPModel,
    videos: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
    prompts: Sequence[str],
) -> Float[np.ndarray, " videos"]:
    """Returns a score of 0…100 for each video (T, H, W, 3) and its prompt.

    Raises:
        UserError: the numbers of videos and prompts differ, or a video is empty.
    """
    if len(videos) != len(prompts):
        raise UserError(
            f"{len(videos)} videos and {len(prompts)} prompts, expected one prompt "
            "per video; pass equal numbers"
        )
    pairs = zip(videos, prompts, strict=True)
    return np.array([_score(model, video, prompt) for video, prompt in pairs])


def _score(model: CLIPModel, video: np.ndarray, prompt: str) -> float:
    return float(frame_scores(model, video, prompt).mean())


def frame_scores(
    model: CLIPModel, video: UInt8[np.ndarray, "t h w 3"], prompt: str
) -> Float[np.ndarray, " t"]:
    """Returns the score of each frame, 0…100.

    Raises:
        UserError: the video is empty.
    """
    cosines = _frame_directions(model, video) @ text_direction(model, prompt)
    return 100 * np.maximum(cosines, 0)


def video_direction(
    model: CLIPModel, video: UInt8[np.ndarray, "t h w 3"]
) -> Float[np.ndarray, " p"]:
    """Returns the mean of the frames' unit embeddings, scaled to length 1."""
    return _unit(_frame_directions(model, video).mean(axis=0))


def text_direction(model: CLIPModel, prompt: str) -> Float[np.ndarray, " p"]:
    """Returns the prompt's embedding, scaled to length 1."""
    return _unit(_embed_text(model, prompt))[0]


def _frame_directions(model: CLIPModel, video: np.ndarray) -> Float[np.ndarray, "t p"]:
    if not len(video):
        raise UserError("a video has no frames, expected at least 1; leave it out")
    starts = range(0, len(video), _FRAMES)
    parts = [_embed_frames(model, video[i : i + _FRAMES]) for i in starts]
    return _unit(np.concatenate(parts))


def _embed_text(model: CLIPModel, prompt: str) -> Float[np.ndarray, "1 p"]:
    ids = model.tokenizer(prompt)
    padded = np.zeros((1, model.tokenizer.limit), np.int32)
    padded[0, : len(ids)] = ids
    valid = np.arange(model.tokenizer.limit)[None] < len(ids)
    run = _compiled(clip.embed_texts, model.text)
    return np.asarray(run(model.text_params, padded, valid))


def _embed_frames(model: CLIPModel, frames: np.ndarray) -> Float[np.ndarray, "b p"]:
    pixels = clip_vision.preprocess(list(frames), model.vision.image_size)
    filled = np.zeros((_FRAMES, *pixels.shape[1:]), np.float32)
    filled[: len(pixels)] = pixels
    run = _compiled(clip_vision.embed_images, model.vision)
    return np.asarray(run(model.vision_params, filled))[: len(pixels)]


@functools.lru_cache(maxsize=4)
def _compiled(apply: Callable, cfg: Any) -> Callable:
    return jit(lambda params, *inputs: apply(params, cfg, *inputs))


def _unit(x: Float[np.ndarray, "*b p"]) -> Float[np.ndarray, "*b p"]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
