"""From prompts to videos: encode text ▸ pack ▸ sample ▸ decode ▸ crop."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree, UInt8

from soraxla.autoencode import decode_clip, encode_clip
from soraxla.compiler import jit
from soraxla.diffusion.process import Process, Purpose, noise
from soraxla.diffusion.schedule import time_shift
from soraxla.hub import local
from soraxla.models import dit
from soraxla.models.config import DiTConfig
from soraxla.models.text import TextEncoder, load_text_encoder
from soraxla.packing import PackSpec, Segment, pack, unpack
from soraxla.patching import positions, unpatchify
from soraxla.planning import Draw, fewest_rows
from soraxla.sampling import Euler, Grid, Heun, Solver, UniPC, WanEuler, guided, sample
from soraxla.sampling.tasks import cover, starting_with, with_first_frame
from soraxla.settings import build, nearest
from soraxla.sharding import constrain, set_size
from soraxla.types import Array, LatentGrid, PackedBatch
from soraxla.wan import load_wan
from soraxla.weights import Loaded, load_transformer, load_vae

SOLVERS: dict[str, Solver] = {
    "euler": Euler(),
    "heun": Heun(),
    "wan-euler": WanEuler(),
    "unipc": UniPC(),
}
MIN_SIDE, MAX_SIDE, MAX_FRAMES = 16, 8192, 100_000
MAX_WORDS = 1000
# Tokens of the rows sampled together: enough to fill an accelerator, and short clips
# share the cost of a step on a CPU.
_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A video to generate, of exactly this size; one frame is an image.

    Attributes:
        image: the first frame, uint8 (h, w, 3), scaled to cover the size and cut at
            the centre; for models that are trained with given frames.

    Raises:
        ValueError: no prompt, a prompt of over 1,000 words, or a size, frame count or
            rate that is not between the limits; an image that is no uint8 (h, w, 3),
            or no frame to generate after it.
    """

    prompt: str
    width: int
    height: int
    frames: int = 1
    fps: float = 24.0
    image: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        words = len(self.prompt.split())
        if not 0 < words <= MAX_WORDS:
            raise ValueError(
                f"the prompt has {words} words, expected 1 to {MAX_WORDS}: describe "
                "the video in a sentence or two"
            )
        for name, low, high in (
            ("width", MIN_SIDE, MAX_SIDE),
            ("height", MIN_SIDE, MAX_SIDE),
            ("frames", 1, MAX_FRAMES),
            ("fps", 0.1, 1000),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} is {value}, expected {low} to {high}")
        if self.image is None:
            return
        shape, dtype = self.image.shape, self.image.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(
                f"the image is {dtype} {shape}, expected uint8 (height, width, 3): "
                "convert it to RGB of 0 to 255"
            )
        if self.frames < 2:
            raise ValueError(
                "frames is 1, which the image is already: ask for 2 or more, such as 97"
            )


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """How requests are sampled.

    Attributes:
        cfg_scale: 1 is no guidance; u + cfg_scale·(c − u).
        negative_prompt: what guidance leads away from; "" is any video.
        seed: request number i of a call always gets the noise of (seed, i).
    """

    steps: int = 30
    solver: str = "euler"
    cfg_scale: float = 4.0
    negative_prompt: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(
                f"unknown solver {self.solver!r}{nearest(self.solver, SOLVERS)}"
            )
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps is {self.steps}, expected 1 to 1000")
        if not (math.isfinite(self.cfg_scale) and 0 <= self.cfg_scale <= 100):
            raise ValueError(f"cfg_scale is {self.cfg_scale}, expected 0 to 100")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A diffusion transformer with its VAE and text encoder, ready to generate."""

    dit: Loaded
    vae: Loaded
    process: Process
    text_encoder: TextEncoder

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        size: tuple[int, int] = (256, 256),
        frames: int = 1,
        fps: float = 24.0,
        settings: SampleSettings | None = None,
    ) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """One video a prompt, `frames` frames of `size` = (width, height) pixels."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        requests = [
            Request(prompt=p, width=size[0], height=size[1], frames=frames, fps=fps)
            for p in prompts
        ]
        results = self.generate_each(requests, settings or SampleSettings())
        return [video for _, video in sorted(results, key=lambda result: result[0])]

    def generate_each(
        self, requests: Sequence[Request], settings: SampleSettings
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "t h w 3"]]]:
        """Yields (place in `requests`, video) as they are done.

        Requests of all sizes are sampled together in packed rows; what else is asked
        for does not change a video (its place in `requests` does).
        """
        if not requests:
            return
        for places, batch, negative in self._batches(requests, settings):
            latents = self._sample(batch, negative, settings)
            clips = [c for row in unpack(latents, batch.segment_ids) for c in row]
            for place, tokens in zip(places, clips, strict=True):
                request = requests[place]
                grid = self._grid(request)
                z = unpatchify(np.asarray(tokens), grid, self._model.patch)
                video = decode_clip(self.vae.params, self.vae.model, np.asarray(z))
                video = video[: request.frames, : request.height, : request.width]
                if request.image is not None:
                    given = cover(request.image, request.width, request.height)
                    video = with_first_frame(video, given)
                yield place, video

    @property
    def _model(self) -> DiTConfig:
        return self.dit.model

    def _grid(self, request: Request) -> LatentGrid:
        """The next multiple up, in latents."""
        cfg, (_, ph, pw) = self.vae.model, self._model.patch
        return LatentGrid(
            t=1 + -(-(request.frames - 1) // cfg.temporal),
            h=ph * -(-request.height // (cfg.spatial * ph)),
            w=pw * -(-request.width // (cfg.spatial * pw)),
        )

    def _first_latents(self, request: Request) -> Float[np.ndarray, "k h w z"]:
        """Of the frames given, so far 1 or 0: a causal VAE encodes them alone."""
        grid, cfg = self._grid(request), self.vae.model
        if request.image is None:
            return np.zeros((0, grid.h, grid.w, cfg.latent_channels), np.float32)
        picture = cover(request.image, request.width, request.height)
        below = grid.h * cfg.spatial - request.height  # what is cropped in the end
        right = grid.w * cfg.spatial - request.width
        picture = np.pad(picture, ((0, below), (0, right), (0, 0)), mode="edge")
        return encode_clip(self.vae.params, cfg, picture[None])

    def _batches(
        self, requests: Sequence[Request], settings: SampleSettings
    ) -> Iterator[tuple[list[int], PackedBatch, PackedBatch | None]]:
        """Rows of about `_TOKENS_AT_ONCE` tokens: places, batch, negative batch."""
        texts = self.text_encoder([request.prompt for request in requests])
        negative_text = self.text_encoder([settings.negative_prompt])[0]
        firsts = [self._first_latents(request) for request in requests]
        draws = []
        for place, (request, text) in enumerate(zip(requests, texts, strict=True)):
            grid, (_, ph, pw) = self._grid(request), self._model.patch
            tokens = grid.t * grid.h * grid.w // (ph * pw)
            draws.append(Draw(place, place, tokens, len(text), grid.t, True))
        # The devices along `context` share a row evenly.
        unit = 128 * set_size("tokens")
        length = _round_up(max(draw.tokens for draw in draws), unit)
        budget = PackSpec(
            row_length=max(
                length,
                min(
                    _round_up(1024, unit), _round_up(sum(d.tokens for d in draws), unit)
                ),
            ),
            text_length=max(256, max(draw.text_tokens for draw in draws)),
            max_segments=32,
        )
        rows = fewest_rows(draws, budget)
        at_once = max(1, _TOKENS_AT_ONCE // budget.row_length)
        for start in range(0, len(rows), at_once):
            chosen = rows[start : start + at_once]
            batch = self._pack(chosen, requests, firsts, texts, budget)
            negative = None
            if settings.cfg_scale != 1.0:
                negative = self._pack(
                    chosen, requests, firsts, [negative_text] * len(texts), budget
                )
            yield [draw.sample for row in chosen for draw in row], batch, negative

    def _pack(
        self,
        rows: Sequence[Sequence[Draw]],
        requests: Sequence[Request],
        firsts: Sequence[np.ndarray],
        texts: Sequence[np.ndarray],
        budget: PackSpec,
    ) -> PackedBatch:
        def segment(draw: Draw) -> Segment:
            request, model = requests[draw.sample], self._model
            grid = self._grid(request)
            shift = time_shift(
                model.shift,
                height=grid.h * self.vae.model.spatial,
                width=grid.w * self.vae.model.spatial,
                latent_frames=grid.t,
            )
            tokens, known = starting_with(firsts[draw.sample], grid, model.patch)
            return Segment(
                tokens=tokens,
                known=known,
                positions=positions(grid, model.patch, request.fps, model.rope_fps),
                text=texts[draw.sample],
                draw=draw.draw,
                shift=shift,
            )

        # Negative prompts may be longer than the prompts.
        longest = max(sum(len(texts[d.sample]) for d in row) for row in rows)
        spec = PackSpec(
            row_length=budget.row_length,
            text_length=max(budget.text_length, longest),
            max_segments=budget.max_segments,
        )
        return pack([[segment(draw) for draw in row] for row in rows], spec)

    def _sample(
        self,
        batch: PackedBatch,
        negative: PackedBatch | None,
        settings: SampleSettings,
    ) -> Float[np.ndarray, "b l p"]:
        run = sampler(self._model, self.process, settings.solver, settings.cfg_scale)
        grid = SOLVERS[settings.solver].grid(settings.steps, batch.shift)
        key = jax.random.key(settings.seed)
        return np.asarray(run(self.dit.params, batch, negative, grid, key))


@functools.lru_cache(maxsize=8)
def sampler(model: DiTConfig, process: Process, solver: str, cfg_scale: float):
    """The whole sampler, one compiled function of all that is data."""

    def run(
        params: PyTree,
        batch: PackedBatch,
        negative: PackedBatch | None,
        grid: Grid,
        key: Any,
    ) -> Array:
        eps = noise(
            key,
            batch.draw,
            batch.segment_ids,
            batch.token_index,
            batch.latents.shape[-1],
            purpose=Purpose.SAMPLE,
        )

        x = sample(
            guided(
                functools.partial(dit.denoiser, params, model),
                batch,
                negative,
                cfg_scale=cfg_scale,
            ),
            constrain(eps, "batch", "tokens", None),
            batch,
            grid,
            process=process,
            solver=SOLVERS[solver],
        )
        return constrain(x, None, None, None)  # all of it to every host

    return jit(run)


def load(checkpoint: str | Path) -> Pipeline:
    """A pipeline from a training folder (its EMA), a folder of weights (of `soraxla
    import` or `export`), or diffusers' folder of a Wan model,
    which may be named `hf:ORG/NAME`.

    Raises:
        ValueError: the folder is missing, incomplete, damaged, or holds something else.
    """
    folder = local(checkpoint)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; give the folder that `soraxla train` or "
            "`soraxla export` wrote"
        )
    if (folder / "transformer").is_dir():
        return assemble(*load_wan(folder))
    return assemble(load_transformer(folder), load_vae(folder / "vae"))


def assemble(loaded: Loaded, vae: Loaded) -> Pipeline:
    """A pipeline of models that are in memory already.

    Raises:
        ValueError: they do not fit together.
    """
    encoder = load_text_encoder(loaded.config["text_encoder"])
    pairs = (
        ("latent channels", loaded.model.latent_channels, vae.model.latent_channels),
        ("text width", loaded.model.text_width, encoder.width),
    )
    for what, expected, found in pairs:
        if expected != found:
            raise ValueError(
                f"the transformer expects {expected} {what}, its partner has {found}; "
                "use the ones it was trained with"
            )
    if not vae.model.latent_mean:
        raise ValueError(
            "the VAE has no latent statistics, so its latents cannot be normalised; "
            "train it, or use the one the transformer was trained with"
        )
    process = build(Process, loaded.config["process"], "process.")
    return Pipeline(dit=loaded, vae=vae, process=process, text_encoder=encoder)


def _round_up(n: int, multiple: int) -> int:
    return multiple * -(-n // multiple)
