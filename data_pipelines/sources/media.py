"""The protocols of sources of media, and the types that all sources share."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

TRAIN, EVAL = "train", "eval"
CAPTION_MIX = 0.05  # share of captioned clips that keep their original caption
# Names of captions in public datasets; the first that exists is used.
CAPTIONS = ("caption", "captions", "text", "sentence", "description", "prompt")


class Extent(NamedTuple):
    """The size of a sample before it is decoded: pixels, frames, bytes of its caption.

    `fps` is 0 for a picture, or if it is unknown. Sizes choose the boundaries of
    shards, so an estimate will do.
    """

    height: int
    width: int
    frames: int
    text: int
    fps: float = 0.0


class Media(NamedTuple):
    """An opened sample, whose frames, uint8 (H, W, 3), are streamed."""

    caption: str
    fps: float  # 0.0 for a picture
    frames: Iterator[np.ndarray]
    actions: np.ndarray | None = None  # (T, a), between the previous frame and this one
    camera: np.ndarray | None = None  # (T, 4, 4), camera to world
    size: tuple[int, int] | None = None  # (H, W), if known before a frame is decoded
    ids: np.ndarray | None = None  # (T, H, W) uint8, the object at each pixel
    split: str = TRAIN  # EVAL keeps the sample from training


@runtime_checkable
class Sample(Protocol):
    """A captioned clip or picture; `uid` is unique in its source."""

    @property
    def uid(self) -> str: ...

    def open(self) -> Media:
        """Opens the sample; raises UserError or OSError, also during streaming."""
        ...


@runtime_checkable
class SizedSample(Sample, Protocol):
    """A sample that knows its size before it is decoded."""

    def size(self) -> Extent:
        """Returns the size; raises UserError or OSError."""
        ...


@runtime_checkable
class Source(Protocol):
    """Captioned clips and pictures in an order that never changes.

    An index names the same sample in every process and after every interruption, so
    several workers can divide a source, and continue it, without talking to each other.
    A source lists its samples when it is made and decodes none. It raises UserError if
    nothing of it can be used. A sample that cannot be used raises when it is opened or
    streamed, and is skipped with that reason. Samples are opened by several threads at
    the same time.

    Attributes:
        name: the source's name, which does not depend on where it is stored.
        content: JSON that differs between sources of one name, such as hashes.
            `prepare` continues only a source of the same name, content and length.
    """

    @property
    def name(self) -> str: ...

    @property
    def content(self) -> Any: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class SteeredSource(Source, Protocol):
    """A source whose samples may have `Media.actions` or `Media.camera`.

    Attributes:
        actions: names of the actions, in the order of the columns of `Media.actions`.
        camera: True if there are cameras.
    """

    @property
    def actions(self) -> tuple[str, ...]: ...

    @property
    def camera(self) -> bool: ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source whose samples may have `Media.ids`; `ids` is True if they have."""

    @property
    def ids(self) -> bool: ...
