"""CLIP score (arXiv 2104.08718) of a video and its prompt, from local weights.

The score is the cosine between CLIP's embeddings of the text and of each frame, as a
percentage, with negative ones as 0, averaged over the frames.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from soraxla.core.errors import UserError
from soraxla.evals.features import Features, load_features
from soraxla.evals.replicas import Replicas
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.text import clip
from soraxla.models.text.tokens import Tokenizer, clean_markup, load_tokenizer
from soraxla.parallel.compiler import encoder_dtype, jit


@dataclass(frozen=True, kw_only=True, eq=False)
class CLIPModel:
    """Both towers of CLIP and the tokenizer.

    Attributes:
        frames: the image tower.
    """

    tokenizer: Tokenizer
    text: clip.CLIPTextConfig
    text_replicas: Replicas
    frames: Features
    name: str = "clip_text"

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of both towers' weights."""
        towers = {
            "text": self.text_replicas.params,
            "vision": self.frames.replicas.params,
        }
        return sha256_of_tree(towers)


def load_clip(folder: str | Path) -> CLIPModel:
    """Loads CLIP from a local folder with both towers; published scores use ViT-L/14.

    It computes in bfloat16, on a CPU in float32.

    Raises:
        UserError: as `models.text.folder` and `models.text.tokens.load_tokenizer`.
    """
    path = Path(folder).expanduser().resolve()
    text_params, text = clip.load(path, encoder_dtype(), projected=True)
    return CLIPModel(
        tokenizer=load_tokenizer(path, text.max_position_embeddings, clean_markup),
        text=text,
        text_replicas=Replicas(text_params),
        frames=load_features(f"clip:{path}"),
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
    if not all(len(video) for video in videos):
        raise UserError("a video has no frames, expected at least 1; leave it out")
    pairs = zip(videos, prompts, strict=True)
    return np.array([frame_scores(model, model.frames(v), p).mean() for v, p in pairs])


def frame_scores(
    model: CLIPModel, features: Float[np.ndarray, "t p"], prompt: str
) -> Float[np.ndarray, " t"]:
    """Returns the score of each frame, 0…100, from the features of `model.frames`."""
    cosines = _unit(features) @ text_direction(model, prompt)
    return 100 * np.maximum(cosines, 0)


def video_direction(features: Float[np.ndarray, "t p"]) -> Float[np.ndarray, " p"]:
    """Returns the mean of the frames' unit embeddings, scaled to length 1."""
    return _unit(_unit(features).mean(axis=0))


def text_direction(model: CLIPModel, prompt: str) -> Float[np.ndarray, " p"]:
    """Returns the prompt's embedding, scaled to length 1."""
    return _unit(_embed_text(model, prompt))[0]


def _embed_text(model: CLIPModel, prompt: str) -> Float[np.ndarray, "1 p"]:
    ids = model.tokenizer(prompt)
    padded = np.zeros((1, model.tokenizer.limit), np.int32)
    padded[0, : len(ids)] = ids
    valid = np.arange(model.tokenizer.limit)[None] < len(ids)
    run = _compiled(model.text)
    return np.asarray(run(model.text_replicas.here(), padded, valid))


@functools.lru_cache(maxsize=4)
def _compiled(cfg: clip.CLIPTextConfig) -> Callable:
    return jit(lambda params, *inputs: clip.embed_texts(params, cfg, *inputs))


def _unit(x: Float[np.ndarray, "*b p"]) -> Float[np.ndarray, "*b p"]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
