"""The pipeline from requests to videos: encode ▸ pack ▸ sample ▸ decode."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from soraxla.checkpoints.load import load_transformer, load_vae
from soraxla.checkpoints.model_folder import LoadedModel
from soraxla.checkpoints.usage import Usage, usage_of
from soraxla.checkpoints.wan import load_wan
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.core.paths import Place
from soraxla.diffusion.process import Process
from soraxla.diffusion.solvers import SOLVERS
from soraxla.generation.batching import Layout, Rows, pack_clips, unpack_clips
from soraxla.generation.blending import join_ratio
from soraxla.generation.condition_latents import Clip
from soraxla.generation.context import TaskContext
from soraxla.generation.defaults import ModelDefaults, find_folder, model_defaults
from soraxla.generation.expansion import Expansion
from soraxla.generation.expansion_model import Expand, expander
from soraxla.generation.progress import Progress
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.sampling import sampler
from soraxla.generation.tasks import clip_count, joins, sampling, spans
from soraxla.generation.video import Video
from soraxla.media.lazy_video import Frame, FrameStore, LazyVideo
from soraxla.models.text import TextEncoder, load_text_encoder

_TAKE = 2**24  # between the visits of one take and those of the next


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A diffusion transformer with its VAE and text encoder, ready to generate.

    Attributes:
        mesh: the devices of `generate`; None is the mesh that is set.
    """

    dit: LoadedModel
    vae: LoadedModel
    process: Process
    text_encoder: TextEncoder
    mesh: Mesh | None = None

    @functools.cached_property
    def usage(self) -> Usage:
        """The lengths, tasks and defaults that the transformer's folder records."""
        return usage_of(self.dit.config, self.dit.model)

    @functools.cached_property
    def defaults(self) -> ModelDefaults:
        """Size, length, rate and sampling of `generate` where none is asked for."""
        return model_defaults(self.usage)

    def expand(self, prompt: str, seed: int = 0) -> Expansion:
        """Returns a text like a training caption that has the prompt's words.

        Raises:
            UserError: as `expansion_model.expander`, which tells how.
        """
        return self._expand(prompt, seed)

    @functools.cached_property
    def _expand(self) -> Expand:
        return expander(self.usage.trained_captions or ())

    @overload
    def generate(self, prompt: str | Request, **options: Any) -> Video: ...

    @overload
    def generate(
        self, prompt: Sequence[str | Request], **options: Any
    ) -> list[Video]: ...

    def generate(
        self,
        prompt: str | Request | Sequence[str | Request],
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        fps: float | None = None,
        **settings: Any,
    ) -> Video | list[Video]:
        """Returns the video of a prompt, or those of a list of prompts, in order.

        Args:
            prompt: a text, or a `Request`, which has its size and may have a task.
            size: (width, height) in pixels; like `frames` and `fps` of texts only, and
                None is the model's default, see `Pipeline.defaults`.
            frames: 1 is an image.
            settings: fields of `SamplingConfig`, such as `steps`, `cfg_scale`, `seed`;
                others are the model's defaults.

        Raises:
            UserError: an unknown option, or a size, length or number out of its range.
        """
        default = self.defaults
        prompts = [prompt] if isinstance(prompt, str | Request) else prompt
        width, height = size or (default.width, default.height)
        requests = [
            each
            if isinstance(each, Request)
            else Request(
                prompt=each,
                width=width,
                height=height,
                frames=default.frames if frames is None else frames,
                fps=fps,
            )
            for each in prompts
        ]
        requests = [self.with_rate(request) for request in requests]
        settings = {**default.sampling, **settings}
        with nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
            if requests and all(map(self.joins, requests)):
                settings = {"takes": default.takes, **settings}
            sampling_config = build(SamplingConfig, settings)
            made = dict(self.generate_each(requests, sampling_config))
        videos = [
            Video(frames=made[place], fps=request.fps or default.fps, request=request)
            for place, request in enumerate(requests)
        ]
        return videos[0] if isinstance(prompt, str | Request) else videos

    def generate_each(
        self,
        requests: Sequence[Request],
        settings: SamplingConfig,
        show: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "t h w 3"]]]:
        """Yields (index in `requests`, video) as they are done.

        Requests of all sizes and tasks are sampled together in packed rows; the other
        requests do not change a video, but its index does, unless it names the number
        of its noise. If a task samples several clips in sequence, each waits for the
        next round. `show` is called after every step of the sampler.

        Raises:
            UserError: several takes of a task without joins.
        """
        videos = self.generate_lazily(requests, settings, show)
        return ((place, np.asarray(video)) for place, video in videos)

    def generate_lazily(
        self,
        requests: Sequence[Request],
        settings: SamplingConfig,
        show: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[tuple[int, LazyVideo]]:
        """Yields (index in `requests`, video) as `generate_each` does, in latents.

        A video is decoded and blended frame by frame while it is read, on the mesh that
        is then set, so that a long one needs no more memory than a short one. Each time
        that it is read, it is decoded again.

        Raises:
            UserError: several takes of a task without joins.
        """
        places = [self.joins(request) for request in requests]
        if settings.takes > 1 and not all(places):
            raise UserError(
                f"takes is {settings.takes}, but a request has no join with input "
                "frames to choose by: set it to 1"
            )
        return self._kept(requests, settings, places, Progress(show))

    def _kept(
        self,
        requests: Sequence[Request],
        settings: SamplingConfig,
        places: Sequence[list[int]],
        progress: Progress,
    ) -> Iterator[tuple[int, LazyVideo]]:
        """Yields the best take of each request, once all are done.

        A take is decoded to measure its joins, and held as latents.
        """
        best: dict[int, tuple[float, int, LazyVideo]] = {}
        done = Counter()
        takes = {
            _TAKE * take + place: request
            for take in range(settings.takes)
            for place, request in enumerate(requests)
        }
        for i, video in self._takes(takes, settings, progress):
            take, place = divmod(i, _TAKE)
            ratio, joins = 0.0, places[place]
            if settings.takes > 1:
                ratio = join_ratio(video, joins, closed=0 in joins)
            found = ratio, take, video
            best[place] = min(best.get(place, found), found, key=lambda x: x[:2])
            done[place] += 1
            if done[place] == settings.takes:
                yield place, best.pop(place)[2]

    def _takes(
        self,
        requests: Mapping[int, Request],
        settings: SamplingConfig,
        progress: Progress,
    ) -> Iterator[tuple[int, LazyVideo]]:
        prompts = self.text_encoder([r.prompt for r in requests.values()])
        texts = dict(zip(requests, prompts, strict=True))
        numbers = {
            i: i if r.noise is None else i // _TAKE * _TAKE + r.noise
            for i, r in requests.items()
        }
        store = FrameStore()
        contexts = {
            i: replace(self.context(r), store=store) for i, r in requests.items()
        }
        progress.expect(settings.steps * sum(map(clip_count, contexts.values())))
        running = {i: sampling(context) for i, context in contexts.items()}
        clips, turn = {i: next(steps) for i, steps in running.items()}, 0
        while clips:
            following = {}
            sampled = self.sample_clips(
                clips, texts, settings, turn, numbers=numbers, progress=progress
            )
            for i, latents in sampled:
                try:
                    with progress.during("decoding"):
                        following[i] = running[i].send(latents)
                except StopIteration as stop:
                    yield i, _watched(stop.value, progress)
            clips, turn = following, turn + 1

    def with_rate(self, request: Request) -> Request:
        """Returns the request with the model's frame rate if it states none."""
        if request.fps is not None:
            return request
        return replace(request, fps=self.defaults.fps)

    def joins(self, request: Request) -> list[int]:
        """Returns the first frame after each join; see `generation.tasks.joins`."""
        return joins(self.context(request))

    def context(self, request: Request) -> TaskContext:
        """Returns the request in the units of this VAE and transformer.

        Raises:
            UserError: the transformer does not know the actions or the camera, or
                windows cannot be; see `TaskContext.window_ends`.
        """
        controls, actions = self.dit.model.controls, request.actions
        if actions is not None and actions.shape[1:] != (len(controls.actions),):
            raise UserError(
                f"actions are {actions.shape}, but the model knows "
                f"{', '.join(controls.actions) or 'none'}"
            )
        if request.camera is not None and not controls.camera:
            raise UserError(
                "the request has a camera, but the model takes none; leave it out"
            )
        context = TaskContext(
            request=self.with_rate(request),
            vae=self.vae,
            patch=self.dit.model.patch,
            limit=self.usage.max_latent_frames,
            trained_tasks=self.usage.trained_tasks,
        )
        for span in spans(context):
            context.window_ends(span)
        return context

    def sample_clips(
        self,
        clips: Mapping[int, Clip],
        texts: Mapping[int, np.ndarray],
        settings: SamplingConfig,
        turn: int = 0,
        *,
        numbers: Mapping[int, int] = {},
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, Float[np.ndarray, "_ _ _ z"]]]:
        """Yields latents of clips, by their keys, as they are done.

        Clip i has text i and the noise of visit `numbers[i]`, or i if there is none,
        which differs in every `turn`. Clips of one strength are sampled together, since
        they have equally many steps.
        """
        progress = progress or Progress()
        run = sampler(self.dit.model, self.process, settings.solver, settings.guidance)
        condition_t = np.float32(settings.condition_noise)
        key = jax.random.fold_in(jax.random.key(settings.seed), turn)
        for strength in sorted({clip.strength for clip in clips.values()}):
            chosen = {i: c for i, c in clips.items() if c.strength == strength}
            # 0.28 · 25 is 7, but more in floating point.
            steps = max(1, math.ceil(round(strength * settings.steps, 6)))
            for rows in self.rows(chosen, texts, settings, numbers):
                shift = rows.batches[0].shift
                grid = SOLVERS[settings.solver].grid(steps, shift, strength)
                told = functools.partial(progress.step, len(rows.keys))
                progress.expect(len(rows.keys) * (steps - settings.steps))
                with progress.during("compiling"):
                    out = run(
                        self.dit.params, rows.batches, grid, key, condition_t, told
                    )
                yield from unpack_clips(out, rows, chosen, self.dit.model.patch)

    def rows(
        self,
        clips: Mapping[int, Clip],
        texts: Mapping[int, np.ndarray],
        settings: SamplingConfig,
        numbers: Mapping[int, int] = {},
    ) -> Iterator[Rows]:
        """Yields the packed clips, with the rows that guidance needs."""
        model, shift = self.dit.model, self.defaults.shift
        layout = Layout(
            patch=model.patch,
            rope_fps=model.rope_fps,
            controls=model.controls,
            shift=model.shift if shift is None else shift,
            spatial=self.vae.model.spatial,
        )
        return pack_clips(
            clips,
            texts,
            self.text_encoder([settings.negative_prompt])[0],
            layout=layout,
            guidance=settings.guidance,
            numbers=numbers,
        )


def _watched(video: LazyVideo, progress: Progress) -> LazyVideo:
    """Returns a video whose reading shows as decoding."""

    def read(start: int, stop: int) -> Iterator[Frame]:
        with progress.during("decoding"):
            yield from video.read(start, stop)

    return LazyVideo(video.shape, read)


def load(checkpoint: str | Place | None = None, mesh: Mesh | None = None) -> Pipeline:
    """Returns the pipeline of a model folder, with its parameters on the mesh.

    The transformer's kernels have the dtype of their products, so that a model that
    computes in bfloat16 takes two bytes a parameter.

    Args:
        checkpoint: a training folder (its EMA is loaded), a folder that `soraxla
            import` or `export` wrote, diffusers' folder of a Wan model, which may be
            named `hf:ORG/NAME`, or one of them in a bucket; None is the model of
            simulated worlds that is shipped.
        mesh: the devices; None is the mesh that is set.

    Raises:
        UserError: the folder is missing, incomplete, damaged, or has other contents.
    """
    if mesh is not None:
        with jax.set_mesh(mesh):
            return replace(load(checkpoint), mesh=mesh)
    folder = find_folder(checkpoint)
    if (folder / "transformer").is_dir():
        return assemble(*load_wan(folder))
    transformer = load_transformer(folder, computed=True)
    return assemble(transformer, load_vae(folder / "vae"))


def assemble(loaded: LoadedModel, vae: LoadedModel) -> Pipeline:
    """Returns a pipeline of models that are in memory.

    Raises:
        UserError: they do not fit together.
    """
    encoder = load_text_encoder(loaded.config["text_encoder"])
    pairs = (
        ("latent channels", loaded.model.latent_channels, vae.model.latent_channels),
        ("text width", loaded.model.text_width, encoder.width),
    )
    for what, expected, found in pairs:
        if expected != found:
            raise UserError(
                f"the transformer expects {expected} {what}, its partner has {found}; "
                "use the ones it was trained with"
            )
    if not vae.model.latent_mean:
        raise UserError(
            "the VAE has no latent statistics, so its latents cannot be normalised; "
            "train it, or use the one the transformer was trained with"
        )
    usage_of(loaded.config, loaded.model)  # checked before anything is sampled
    process = build(Process, loaded.config["process"], "process.")
    return Pipeline(dit=loaded, vae=vae, process=process, text_encoder=encoder)
