"""The use of a model: the lengths, tasks and defaults in its `config.json`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.models.dit.config import DiTConfig
from soraxla.models.vae.model import VAEConfig


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """Defaults of generation with one model; None leaves a value to the next source.

    Attributes:
        shift: the time shift in sampling, as `DiTConfig.shift`.
        takes: samples of a video with joins.
        onward: frames by which a clip is extended at once; None is as many as the
            model was trained with.
        bridge: the strength at which connections and loops start.
    """

    fps: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    steps: int | None = None
    solver: str | None = None
    shift: float | Literal["auto"] | None = None
    cfg_scale: float | None = None
    negative_prompt: str | None = None
    takes: int | None = None
    condition_noise: float | None = None
    onward: int | None = None
    bridge: float | None = None

    def stated(self) -> dict[str, Any]:
        """Returns the values that are not None, by name."""
        return {k: v for k, v in to_dict(self).items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The entries of a transformer's `config.json` on how to generate with it.

    Attributes:
        max_latent_frames: latent frames of the longest clip in training; None is no
            limit.
        trained_tasks: names in `packing.tasks.TASKS`; None if nothing recorded them.
        training_median: size, frames and rate of the median training sample.
        trained_words: words of the captions in training, for an encoder that knows no
            other language; None if nothing recorded them, or they are very many.
        trained_captions: captions of the training, up to 1,000, where there are
            `trained_words`; prompts are expanded by them.
        family: the public model whose values stand in for a folder that has none.
    """

    max_latent_frames: int | None = None
    trained_tasks: tuple[str, ...] | None = None
    generation_defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    training_median: GenerationDefaults = field(default_factory=GenerationDefaults)
    trained_words: tuple[str, ...] | None = None
    trained_captions: tuple[str, ...] | None = None
    family: str | None = None

    def record(self) -> dict[str, Any]:
        """Returns the entries for a `config.json`; an unknown one is left out."""
        entries: dict[str, Any] = {"max_latent_frames": self.max_latent_frames}
        for name in ("trained_tasks", "trained_words", "trained_captions"):
            if (texts := getattr(self, name)) is not None:
                entries[name] = list(texts)
        return entries | {
            "generation_defaults": self.generation_defaults.stated(),
            "training_median": self.training_median.stated(),
        }


RECORDED = tuple(f.name for f in fields(Usage) if f.name != "family")


class _Family(NamedTuple):
    name: str
    tasks: tuple[str, ...]
    defaults: GenerationDefaults


_WAN_21 = _Family(
    "Wan 2.1",
    ("text", "edit"),
    GenerationDefaults(
        fps=16.0,
        width=832,
        height=480,
        frames=81,
        steps=50,
        solver="unipc",
        cfg_scale=5.0,
    ),
)
_WAN_22_5B = _Family(
    "Wan 2.2 TI2V-5B",
    ("text", "first_frame", "edit"),
    GenerationDefaults(
        fps=24.0,
        width=1280,
        height=704,
        frames=121,
        steps=50,
        solver="unipc",
        cfg_scale=5.0,
    ),
)


def family_usage(model: DiTConfig | VAEConfig) -> Usage | None:
    """Returns the usage of the public Wan with this layout; None for other layouts."""
    if not isinstance(model, DiTConfig):
        return None
    if model.text_pad_to is None or model.position_embed:
        return None
    family = _WAN_22_5B if model.latent_channels == 48 else _WAN_21
    return Usage(
        trained_tasks=family.tasks,
        generation_defaults=family.defaults,
        family=family.name,
    )


def usage_of(config: Mapping[str, Any], model: DiTConfig) -> Usage:
    """Returns the usage in a transformer's `config.json`.

    A folder in Wan's layout that lacks `trained_tasks` is of a version that recorded
    the longest clip of a fine-tuning as its limit. Wan's own usage takes its place.

    Raises:
        UserError: an entry is wrong.
    """
    limit = config.get("max_latent_frames")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UserError(
            f"the transformer's max_latent_frames is {limit!r}, expected a whole "
            "number of at least 1, or null; correct its config.json"
        )
    known = {name: config[name] for name in RECORDED if name in config}
    found = build(Usage, known, "config.json: ")
    family = family_usage(model)
    if family is None:
        return found
    if "trained_tasks" not in config:
        found = replace(
            found, max_latent_frames=None, trained_tasks=family.trained_tasks
        )
    if "generation_defaults" not in config:
        found = replace(
            found, generation_defaults=family.generation_defaults, family=family.family
        )
    return found


def trained_usage(
    base: Usage | None,
    *,
    longest: int,
    tasks: Iterable[str],
    median: GenerationDefaults,
    words: Iterable[str] | None = None,
    captions: Iterable[str] | None = None,
) -> Usage:
    """Returns the usage of a model that was trained from `base`, or from nothing.

    Training adds lengths and tasks to those of the base and takes none away.

    Args:
        longest: latent frames of the longest clip in training.
        tasks: the names that training taught.
        words: see `Usage.trained_words`.
        captions: see `Usage.trained_captions`; those of the base give way to them.
    """
    captions = None if captions is None else tuple(captions)
    if base is None:
        return Usage(
            max_latent_frames=longest,
            trained_tasks=tuple(tasks),
            training_median=median,
            trained_words=None if words is None else tuple(words),
            trained_captions=captions,
        )
    limit, known = base.max_latent_frames, base.trained_tasks
    if words is not None and base.trained_words is not None:
        words = tuple(sorted({*base.trained_words, *words}))
    else:
        words = None
    return Usage(
        max_latent_frames=None if limit is None else max(limit, longest),
        trained_tasks=None if known is None else tuple(dict.fromkeys((*known, *tasks))),
        generation_defaults=base.generation_defaults,
        training_median=median,
        trained_words=words,
        trained_captions=captions,
    )
