"""The defaults of generation with a model, and the source of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soraxla.assets import worlds_model
from soraxla.checkpoints.load import read_transformer
from soraxla.checkpoints.usage import Usage, family_usage, usage_of
from soraxla.checkpoints.wan.convert import open_transformer
from soraxla.core.errors import UserError
from soraxla.files.hub import local

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


def read_usage(checkpoint: str | Path | None) -> Usage:
    """Returns the usage of the model that `pipeline.load` loads, without its weights.

    Raises:
        UserError: the folder is missing or its configuration is damaged.
    """
    folder = find_folder(checkpoint)
    if (folder / "transformer").is_dir():
        return family_usage(open_transformer(folder).model) or Usage()
    model, config = read_transformer(folder)
    return usage_of(config, model)


def find_folder(checkpoint: str | Path | None) -> Path:
    """Returns the local folder of a checkpoint; None is the model that is shipped.

    Raises:
        UserError: there is no such folder.
    """
    folder = worlds_model() if checkpoint is None else local(checkpoint)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give the folder that `soraxla train` or "
            "`soraxla export` wrote"
        )
    return folder
