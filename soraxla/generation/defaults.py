"""The defaults of generation with a model, and the source of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from soraxla.assets import worlds_model
from soraxla.checkpoints.load import read_transformer, within_reach
from soraxla.checkpoints.usage import Usage, family_usage, usage_of
from soraxla.checkpoints.wan.convert import open_transformer
from soraxla.core.errors import UserError
from soraxla.core.paths import Place, is_remote, place
from soraxla.files.hub import local
from soraxla.generation.request import Request
from soraxla.models.text.hashed import FUNCTION_WORDS, split_words

RECORDED = "the model folder's generation_defaults"
MEDIAN = "the median of the training data"
OTHERWISE = "soraxla, since the model folder states none"

_SAMPLING = ("steps", "solver", "cfg_scale", "negative_prompt", "condition_noise")


@dataclass(frozen=True, kw_only=True)
class ModelDefaults:
    """Values that generation takes where none is asked for.

    Attributes:
        takes: samples of a video with joins.
        onward: frames by which a clip is extended at once; None is the model's limit.
        bridge: the strength at which connections and loops start.
        shift: the time shift in sampling; None is the model's.
        sampling: fields of `SamplingConfig` that the model's folder sets.
        origins: the source of each value, by its name.
    """

    width: int = 256
    height: int = 256
    frames: int = 1
    fps: float = 24.0
    takes: int = 1
    onward: int | None = None
    bridge: float = 1.0
    shift: float | Literal["auto"] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def sizes_pictures(self) -> bool:
        """True if the model's folder states the size that pictures are brought to."""
        return self.origins.get("width", OTHERWISE) not in (MEDIAN, OTHERWISE)


def model_defaults(usage: Usage) -> ModelDefaults:
    """Returns the defaults of a model: its folder's, then its training data's."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, source in (
        (usage.family or RECORDED, usage.generation_defaults),
        (MEDIAN, usage.training_median),
    ):
        stated = source.stated()
        if not {"width", "height"} <= stated.keys():  # a size is one value
            stated = {k: v for k, v in stated.items() if k not in ("width", "height")}
        for name, value in stated.items():
            if name not in values:
                values[name], origins[name] = value, origin
    sampling = {name: values.pop(name) for name in _SAMPLING if name in values}
    return ModelDefaults(**values, sampling=sampling, origins=origins)


def read_usage(checkpoint: str | Place | None) -> Usage:
    """Returns the usage of the model that `pipeline.load` loads, without its weights.

    Raises:
        UserError: the folder is missing or its configuration is damaged.
    """
    folder = find_folder(checkpoint)
    if (folder / "transformer").is_dir():
        return family_usage(open_transformer(folder).model) or Usage()
    model, config = read_transformer(folder)
    return usage_of(config, model)


def unlike_training(usage: Usage, requests: Sequence[Request]) -> list[str]:
    """Returns notes on requests far from what a model was trained on; none if unknown.

    A size is far from the recorded ones if its pixels are fewer than a fourth or more
    than four times theirs, a rate if it is less than half or more than twice.
    """
    notes: list[str] = []
    recorded = [usage.training_median, usage.generation_defaults]
    sizes = [(m.width, m.height) for m in recorded if m.width and m.height]
    rates = [m.fps for m in recorded if m.fps]
    for request in requests:
        pixels = request.width * request.height
        if sizes and not any(w * h / 4 <= pixels <= 4 * w * h for w, h in sizes):
            notes.append(
                f"{request.width}x{request.height} is far from the size that the model "
                f"was trained on, about {sizes[0][0]}x{sizes[0][1]}: expect noise "
                "(--size)"
            )
        fps = request.fps
        if rates and fps and not any(rate / 2 <= fps <= 2 * rate for rate in rates):
            notes.append(
                f"{fps:g} frames a second are far from the rate that the model was "
                f"trained on, about {rates[0]:g} (--fps)"
            )
        if _says_nothing(request.prompt, usage.trained_words):
            notes.append(
                f"no word of the prompt {request.prompt!r} was in the training "
                f"captions, whose words are {_some(usage.trained_words or ())}: the "
                "model does not know what it means"
            )
    return list(dict.fromkeys(notes))


def _says_nothing(prompt: str, words: tuple[str, ...] | None) -> bool:
    """Returns whether a prompt has words, and none like one of the trained ones.

    Function words do not count. A word that begins another is like it: *rabbit* and
    *rabbits* have near embeddings.
    """
    if words is None or not (asked := set(split_words(prompt)) - FUNCTION_WORDS):
        return False
    return not any(
        word == own
        or (min(len(word), len(own)) > 2 and word[: len(own)] == own[: len(word)])
        for word in asked
        for own in words
    )


def _some(words: tuple[str, ...]) -> str:
    longest = sorted(words, key=len, reverse=True)[:8]  # articles say little
    return ", ".join(sorted(longest)) + (", …" if len(words) > 8 else "")


def find_folder(checkpoint: str | Place | None) -> Place:
    """Returns the folder of a checkpoint; None is the model that is shipped.

    All but a remote training folder are local or are downloaded.

    Raises:
        UserError: there is no such folder.
    """
    folder = worlds_model() if checkpoint is None else place(checkpoint)
    folder = folder if is_remote(folder) else local(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give the folder that `soraxla train` or "
            "`soraxla export` wrote"
        )
    return within_reach(folder)
