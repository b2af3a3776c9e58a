"""The curation of one file: its candidate clips, with all scores of their pixels."""

import base64
import dataclasses
import hashlib
import importlib.metadata
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data_pipelines.curate import (
    aesthetic,
    borders,
    caption,
    duplicates,
    motion,
    picture,
    probe,
    safety,
    shots,
    text,
)
from data_pipelines.curate.aesthetic import Score
from data_pipelines.curate.borders import BordersConfig
from data_pipelines.curate.caption import Captioner
from data_pipelines.curate.motion import MotionConfig
from data_pipelines.curate.shots import ShotsConfig
from data_pipelines.curate.stage import SAMPLE_RATE, WORKING_SIDE, Sampled, Scores
from data_pipelines.curate.text import TextConfig
from soraxla.core.errors import UserError
from soraxla.media.read import VideoInfo, read_frames
from soraxla.media.read import probe as probe_file

VERSION = 1  # of the stages: another number computes all files again
_THUMB = 96  # pixels of the shorter side of a clip's picture in the report

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """The settings that scores depend on. Models are named, and passed as callables."""

    shots: ShotsConfig = field(default_factory=ShotsConfig)
    borders: BordersConfig = field(default_factory=BordersConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    aesthetic: str | None = None  # names of models
    safety: str | None = None
    captioner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """The callables of the stages that need a model; None leaves scores absent."""

    aesthetic: Score | None = None
    safety: Score | None = None
    captioner: Captioner | None = None


LoadScorers = Callable[[], Scorers]  # called once in each process


def identity(cfg: CurateConfig) -> dict[str, Any]:
    """Returns the settings and versions that scores depend on, as JSON."""
    packages = ("av", "numpy", "opencv-python-headless", "scenedetect-headless")
    return {
        "settings": dataclasses.asdict(cfg),
        "versions": {"stages": VERSION} | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def curate_file(
    path: Path, sha256: str, cfg: CurateConfig, scorers: Scorers | None = None
) -> list[Row]:
    """Returns a row for each candidate clip of a film or picture, in their order.

    The film is decoded once and streamed: memory holds about a second of small frames
    and the samples, two per second, of one shot. A file that cannot be read to its end
    has a last row with `error`, the reason.

    Args:
        sha256: of the file's bytes.
        scorers: the callables of the models that `cfg` names.
    """
    # Each worker has one core; the bits of the flow do not depend on threads.
    cv2.setNumThreads(1)
    rows: list[Row] = []
    try:
        info = probe_file(path)
        for shot, samples in _clips(path, info, cfg):
            rows.append(_row(shot, samples, info, sha256, cfg, scorers or Scorers()))
    except (UserError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        whole = {"start_frame": 0, "frames": 0, "start_s": 0.0, "fps": 0.0}
        lost = whole | {"crop": [0, 0, 0, 0], "error": reason}
        if rows:
            last = rows[-1]
            start = last["start_frame"] + last["frames"]
            lost |= {"start_frame": start, "start_s": start / (last["fps"] or 1.0)}
        rows.append(lost | {"clip_id": _clip_id(sha256, lost), "hash": None})
    return rows


def _clips(
    path: Path, info: VideoInfo, cfg: CurateConfig
) -> Iterator[tuple[shots.Shot, list[Sampled]]]:
    """Yields the shots of a file with their samples."""
    step = max(1, round(info.fps / SAMPLE_RATE))
    # The longest shot, and what passes until its end is decided.
    most = int(info.fps * (cfg.shots.max_seconds + 4)) // step + 16
    held: deque[Sampled] = deque(maxlen=most)
    frames = _watched(read_frames(path), step, held)
    if info.is_image:
        for _ in frames:
            yield shots.Shot(0, 1), list(held)
        return
    for shot in shots.find_shots(frames, info.fps, cfg.shots):
        while held and held[0].index < shot.start:
            held.popleft()
        stop = shot.start + shot.frames
        yield shot, [sample for sample in held if sample.index < stop]


def _watched(
    frames: Iterable[np.ndarray], step: int, held: deque[Sampled]
) -> Iterator[np.ndarray]:
    """Yields all frames, and appends a sample of every `step`-th."""
    for index, frame in enumerate(frames):
        if index % step == 0:
            held.append(_sampled(index, frame))
        yield frame


def _sampled(index: int, frame: np.ndarray) -> Sampled:
    rows, columns = borders.levels(frame)
    return Sampled(
        index=index,
        picture=_shrunk(frame, WORKING_SIDE),
        rows=rows,
        columns=columns,
        blockiness=picture.blockiness(frame),
    )


def _shrunk(frame: np.ndarray, side: int) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return frame.copy()
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _row(
    shot: shots.Shot,
    samples: list[Sampled],
    info: VideoInfo,
    sha256: str,
    cfg: CurateConfig,
    scorers: Scorers,
) -> Row:
    height, width = info.height, info.width
    box = borders.crop(samples, height, width, cfg.borders)
    pictures = [borders.cropped(s.picture, box, height, width) for s in samples]
    # As samples are spaced: see `_clips`.
    seconds = max(1, round(info.fps / SAMPLE_RATE)) / (info.fps or 1.0)
    found: dict[str, Scores] = {
        "probe": probe.scores(info),
        "shots": shots.scores(shot, info.fps),
        "borders": borders.scores(box, height, width),
        "motion": motion.scores(pictures, seconds, cfg.motion),
        "picture": picture.scores(pictures, [s.blockiness for s in samples]),
        "text": text.scores(pictures, cfg.text),
        "aesthetic": aesthetic.scores(pictures, scorers.aesthetic),
        "safety": safety.scores(pictures, scorers.safety),
    }
    row: Row = {
        "start_frame": shot.start,
        "frames": shot.frames,
        "start_s": shot.start / info.fps if info.fps else 0.0,
        "fps": info.fps,
        "crop": [box.top, box.left, box.height, box.width],
    }
    row["clip_id"] = _clip_id(sha256, row)
    for stage, scores in found.items():
        for name, value in scores.items():
            # The table has float32, and limits apply to these.
            rounded = None if value is None else float(np.float32(value))
            row[f"score.{stage}.{name}"] = rounded
    row |= caption.caption(pictures, scorers.captioner)
    hashed = duplicates.clip_hash(pictures)
    row["hash"] = hashed.hex() if hashed else None
    row["thumb"] = _jpeg(pictures[len(pictures) // 2]) if pictures else None
    return row


def _clip_id(sha256: str, row: Row) -> str:
    place = [sha256, row["start_frame"], row["frames"], *row["crop"]]
    return hashlib.sha256(" ".join(map(str, place)).encode()).hexdigest()


def _jpeg(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(_shrunk(pixels, _THUMB)).save(out, "JPEG", quality=75)
    return base64.b64encode(out.getvalue()).decode()
