"""Captioned views of a source: a folder that a captioner is trained on.

It has the frames of all clips, scaled once, in one file that is mapped into memory, so
any clip is read in microseconds, however long its film is.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_pipelines import records
from data_pipelines.bad_media import check_share, check_there
from data_pipelines.loader import read_batches
from data_pipelines.sources.files import Item, fingerprint
from data_pipelines.sources.media import Source
from data_pipelines.view import View, ViewConfig, segment, view
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.files.atomic_folder import atomic_folder
from soraxla.packing.bin_packing import Visit
from soraxla.packing.pack import PackConfig, RowConfig, Segment
from soraxla.packing.schedule_index import ScheduleIndex

CARD, PIXELS = "views.json", "pixels.bin"
_FORMAT = 1
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("uid", "caption")),
        *((name, pa.int32()) for name in ("height", "width")),
        ("offset", pa.int64()),  # bytes
        ("times", pa.list_(pa.float64())),  # seconds, one a frame
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedViews:
    """An opened folder of views.

    Attributes:
        fingerprint: identifies source and view.
    """

    path: Path
    view: ViewConfig
    fingerprint: str
    rows: list[dict[str, Any]]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def captions(self) -> list[str]:
        return [row["caption"] for row in self.rows]

    def __getitem__(self, index: int) -> View:
        row = self.rows[index]
        shape = len(row["times"]), row["height"], row["width"], 3
        flat = self.pixels[row["offset"] : row["offset"] + int(np.prod(shape))]
        return View(np.asarray(flat).reshape(shape), np.array(row["times"]))


def write_views(
    samples: Source,
    out: Path,
    cfg: ViewConfig,
    *,
    max_bad: float = 0.05,
    progress: bool = True,
) -> None:
    """Writes the views of all samples that have a caption to a new folder, atomically.

    Samples without a caption are left out.

    Raises:
        UserError: `out` exists, more than the share `max_bad` of the samples cannot be
            used, or none has a caption.
    """
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    offset = 0
    identity = _identity(samples, cfg)
    check_there(samples, max_bad)
    with atomic_folder(out) as partial, (partial / PIXELS).open("wb") as file:
        bar = tqdm(samples, unit="clip", disable=None if progress else True)
        for sample in bar:
            try:
                media = sample.open()
                if not media.caption.strip():
                    continue
                shown = view(media.frames, media.fps, cfg)
            except (UserError, OSError) as error:
                place = f"{sample.file}: " if isinstance(sample, Item) else ""
                bad.append(f"{sample.uid}: {str(error).removeprefix(place)}")
                remedy = "repair or remove them"
                check_share(bad, len(samples), max_bad, bad[-1], remedy)
                continue
            file.write(shown.pixels.tobytes())
            size = dict(zip(("height", "width"), shown.pixels.shape[1:3], strict=True))
            times = shown.times.tolist()
            row = {"uid": sample.uid, "caption": media.caption, **size}
            rows.append(row | {"offset": offset, "times": times})
            offset += shown.pixels.nbytes
        if not rows:
            raise UserError(f"{out}: no clip of the source has a caption; add captions")
        pq.write_table(
            pa.Table.from_pylist(rows, schema=_SCHEMA), partial / records.INDEX
        )
        card = {"format": _FORMAT, "view": asdict(cfg), "fingerprint": identity}
        records.write_json(partial / CARD, card | {"bytes": offset, "left_out": bad})


def open_views(path: Path) -> CaptionedViews:
    """Opens a folder of `write_views`.

    Raises:
        UserError: it is no such folder, or it is damaged.
    """
    if not (path / CARD).is_file():
        raise UserError(
            f"{path}: holds no views (no {CARD}); run soraxla caption train --source"
        )
    try:
        card = json.loads((path / CARD).read_bytes())
        cfg = build(ViewConfig, card["view"], "view.")
        rows = pq.read_table(path / records.INDEX).to_pylist()
        expected, identity = card["bytes"], card["fingerprint"]
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({error}); remove it") from None
    file = path / PIXELS
    found = file.stat().st_size if file.is_file() else 0
    if found != expected:
        raise UserError(
            f"{file}: has {found} bytes, expected {expected}; remove the folder"
        )
    pixels = np.memmap(file, np.uint8, "r")
    return CaptionedViews(
        path=path, view=cfg, fingerprint=identity, rows=rows, pixels=pixels
    )


def caption_index(
    views: CaptionedViews, text: Sequence[np.ndarray], cfg: RowConfig
) -> ScheduleIndex:
    """Returns the sizes of all clips for the schedule.

    Args:
        text: of each clip, as `view.segment` takes it.

    Raises:
        UserError: a clip does not fit a row.
    """
    patch = views.view.patch
    t = np.array([len(row["times"]) for row in views.rows])
    height, width = (
        np.array([row[name] for row in views.rows]) for name in ("height", "width")
    )
    most = int((t * (height // patch) * (width // patch)).max())
    if most > cfg.row_length:
        raise UserError(
            f"a clip has {most} tokens, more than a row of {cfg.row_length}: set "
            f"pack.row_length to at least {most}"
        )
    spans = np.array([row["times"][-1] for row in views.rows])
    return ScheduleIndex(
        t=t,
        h=height // patch,
        w=width // patch,
        fps=np.where(t > 1, (t - 1) / np.where(spans > 0, spans, 1.0), 0.0),
        text_length=np.array([len(each) for each in text]),
        height=height,
        width=width,
        empty_text_length=1,
        patch=(1, 1, 1),
    )


def whole_clips(cfg: RowConfig) -> PackConfig:
    """Returns the settings of rows that show whole clips with their captions."""
    return PackConfig(
        row_length=cfg.row_length,
        text_length=cfg.text_length,
        max_segments=cfg.max_segments,
        caption_dropout=0.0,
    )


def caption_batches(
    views: CaptionedViews,
    index: ScheduleIndex,
    text: Sequence[np.ndarray],
    cfg: RowConfig,
    *,
    seed: int,
    batch_rows: int,
    host_rows: Sequence[int] | None = None,
    prefetch: int = 2,
) -> Any:
    """Returns endless `PackedBatch`es of clips and their captions.

    `latents` has patches of pixels, and `text` (B, M, 2) a token and the next one. See
    `loader.read_batches` for the arguments and errors.
    """

    def read(visit: Visit) -> Segment:
        at = visit.sample
        return segment(views[at], views.view, text[at], visit.number)

    return read_batches(
        index,
        whole_clips(cfg),
        read,
        seed=seed,
        batch_rows=batch_rows,
        host_rows=host_rows,
        prefetch=prefetch,
    )


def encoded(
    captions: Sequence[str], encode: Callable[[str], list[int]]
) -> list[np.ndarray]:
    """Returns each caption's tokens beside the next ones, (M, 2).

    Args:
        encode: returns the tokens with those of the beginning and the end.
    """
    made = []
    for caption in captions:
        ids = np.array(encode(caption), np.int32)
        made.append(np.stack([ids[:-1], ids[1:]], axis=1))
    return made


def _identity(samples: Source, cfg: ViewConfig) -> str:
    what = [_FORMAT, fingerprint(samples), asdict(cfg)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
