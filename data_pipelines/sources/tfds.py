"""Samples from a TFDS dataset stored as ArrayRecord, read without TensorFlow."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.features import video_feature

from data_pipelines.sources.media import CAPTIONS, Media
from soraxla.core.errors import UserError

# Feature names in the TFDS catalogue; the first that exists is used.
_CLIPS = ("video", "frames", "clip")
_PICTURES = ("image",)
_LABEL = "label"
_RATES = ("fps", "frame_rate")
_DEFAULT_FPS = 25.0  # of clips in a dataset without a rate


@dataclass(frozen=True)
class TfdsSample:
    """One example, read and decoded when it is opened."""

    source: "TfdsSource"
    index: int

    @property
    def uid(self) -> str:
        """The dataset's full name with its version, the split and the index in it."""
        return f"{self.source.name}/{self.index}"

    def open(self) -> Media:
        """Opens the example; see `Sample.open`."""
        return self.source.media(self.index)


class TfdsSource(Sequence[TfdsSample]):
    """The samples of `NAME[/CONFIG][:VERSION][/SPLIT]`.

    SPLIT is `train` unless there is only one. A clip comes from the feature `video`,
    `frames` or `clip`, a picture from `image`; the caption from `caption_column`, or
    the first of `media.CAPTIONS`, or the name of the `label`; the rate from `fps` or
    `frame_rate`, 25 without them. A dataset whose metadata list `actions`, or mention
    `camera`, has features of that name with one row per frame; `ids`, if there are
    some, number the object at each pixel. `data_dir` defaults to TFDS's
    (TFDS_DATA_DIR).

    Raises:
        UserError: TFDS does not find the dataset or the split; it is not stored as
            ArrayRecord and cannot be made; or it lacks media or captions.
    """

    def __init__(
        self,
        name: str,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        caption_column: str | None = None,
    ):
        where: dict[str, Any] = (
            {} if data_dir is None else {"data_dir": os.fspath(data_dir)}
        )
        dataset, split = _resolve(name, where)
        try:
            with _video_without_tensorflow():
                self._data: Any = tfds.data_source(dataset, split=split, **where)
        except Exception as error:
            raise UserError(
                f"tfds:{name}: cannot be read as ArrayRecord ({_first_line(error)}); "
                "prepare it with: tfds build --file_format=array_record"
            ) from None
        info = self._data.dataset_info
        self.name = f"{info.full_name}/{split}"
        # Many datasets have equal names and lengths.
        self.content = {
            name: [whole.num_bytes, list(whole.shard_lengths or ())]
            for name, whole in info.splits.items()
        }
        self._features = dict((self._data.dataset_info.features or {}).items())
        self._media = _one_of(self._features, (*_CLIPS, *_PICTURES), name, "clips")
        captions = (*CAPTIONS, _LABEL) if caption_column is None else (caption_column,)
        self._caption = _one_of(self._features, captions, name, "captions")
        rates = [rate for rate in _RATES if rate in self._features]
        self._rate = rates[0] if rates else None
        metadata = self._data.dataset_info.metadata or {}
        self.actions = tuple(metadata.get("actions", ()))  # their names
        self.camera = bool(metadata.get("camera", False))
        self.ids = "ids" in self._features  # of the object at each pixel

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return TfdsSample(self, index % len(self))

    def media(self, index: int) -> Media:
        """Decodes an example; raises UserError if that fails or it has no caption."""
        try:
            example = self._data[index]
        except Exception as error:
            raise UserError(f"cannot be decoded ({_first_line(error)})") from None
        caption = self._caption_of(example)
        if self._media in _PICTURES:
            return Media(caption, 0.0, map(_rgb, [example[self._media]]))
        fps = float(example[self._rate]) if self._rate else _DEFAULT_FPS
        frames = example[self._media]
        steering = {
            name: example[name]
            for name in ("actions", "camera")
            if getattr(self, name)
            and len(example[name]) == len(frames)
            and np.size(example[name])  # without actions, each frame has none
        }
        ids = example.get("ids")
        return Media(caption, fps, map(_rgb, frames), **steering, ids=ids)

    def _caption_of(self, example: Mapping[str, Any]) -> str:
        value, feature = example[self._caption], self._features[self._caption]
        if isinstance(feature, tfds.features.ClassLabel):
            return feature.int2str(int(value)).replace("_", " ")
        while isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value):
            value = value[0] if len(value) else ""
        value = value.item() if isinstance(value, np.ndarray) else value
        text = value.decode() if isinstance(value, bytes) else str(value)
        if not text.strip():
            raise UserError("has an empty caption")
        return " ".join(text.split())


def _resolve(name: str, where: dict[str, Any]) -> tuple[str, str]:
    """Returns (dataset, split) of `NAME/SPLIT`; a last part may also be a config."""
    head, _, tail = name.rpartition("/")
    reasons = []
    for dataset, split in ((head, tail), (name, "")):
        if not dataset:
            continue
        try:
            with _video_without_tensorflow():
                splits = list(tfds.builder(dataset, **where).info.splits)
        except Exception as caught:
            reasons.append(_first_line(caught))
            continue
        if (
            split
            and re.split(r"[\[_+]", split)[0] not in splits
            and split not in splits
        ):
            reasons.append(f"no split {split!r}, expected one of {splits}")
            continue
        if not split:
            split = splits[0] if len(splits) == 1 else "train"
        return dataset, split
    raise UserError(f"tfds:{name}: is not found ({(reasons or ['no name'])[0]})")


def _one_of(
    features: Mapping[str, Any], names: Sequence[str], dataset: str, what: str
) -> str:
    for name in names:
        if name in features:
            return name
    raise UserError(
        f"tfds:{dataset}: has no {what}; its features are {', '.join(features)}, "
        f"expected one of {', '.join(names)}"
    )


def _rgb(frame: np.ndarray) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3):
        raise UserError(
            f"has frames {frame.dtype} {frame.shape}, expected uint8 (H, W, 1 or 3)"
        )
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _video_without_tensorflow() -> Iterator[None]:
    """Lets TFDS build its Video feature without TensorFlow.

    tfds.features.Video (4.9.10) uses TensorFlow for one purpose, to name its dtype; all
    its decoding is NumPy.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    original = video_feature.tf
    video_feature.tf = SimpleNamespace(dtypes=SimpleNamespace(as_dtype=np.dtype))
    try:
        yield
    finally:
        video_feature.tf = original
