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
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from data_pipelines.curate import (
    aesthetic,
    borders,
    caption,
    cuts,
    duplicates,
    motion,
    people,
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
from data_pipelines.curate.people import Count
from data_pipelines.curate.shots import ShotsConfig
from data_pipelines.curate.shrink import at_most
from data_pipelines.curate.stage import SAMPLE_RATE, WORKING_SIDE, Sampled, Scores
from data_pipelines.curate.text import TextConfig
from soraxla.core.errors import UserError
from soraxla.media.read import VideoInfo, read_frames
from soraxla.media.read import probe as probe_file

VERSION = 2  # of the stages: another number computes all files again
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
    people: str | None = None
    captioner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """The callables of the stages that need a model; None leaves scores absent."""

    aesthetic: Score | None = None
    safety: Score | None = None
    people: Count | None = None
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

    The film is decoded once and streamed: memory holds the samples of one shot, two per
    second, and its frames at 128 pixels. A file that cannot be read to its end has a
    last row with `error`, the reason.

    Args:
        sha256: of the file's bytes.
        scorers: the callables of the models that `cfg` names.
    """
    # Each worker has one core; the bits of the flow do not depend on threads.
    cv2.setNumThreads(1)
    rows: list[Row] = []
    try:
        info = probe_file(path)
        for clip in _clips(path, info, cfg):
            rows.append(_row(clip, info, sha256, cfg, scorers or Scorers()))
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


class _Clip(NamedTuple):
    shot: shots.Shot
    samples: list[Sampled]
    keys: list[np.ndarray]  # its key frames, small and grey


class _Held(NamedTuple):
    """The frames that the next clip may have, none from before the last clip's end."""

    samples: deque[Sampled]
    greys: deque[tuple[int, np.ndarray]]  # index, small picture


def _clips(path: Path, info: VideoInfo, cfg: CurateConfig) -> Iterator[_Clip]:
    """Yields the clips of a file, one for each shot."""
    step = max(1, round(info.fps / SAMPLE_RATE))
    # The longest shot, and the frames that pass until its end is decided.
    most = int(info.fps * (cfg.shots.max_seconds + 4)) + 16
    held = _Held(deque(maxlen=most // step + 16), deque(maxlen=most))
    frames = _watched(read_frames(path), step, held)
    if info.is_image:
        found: Iterable[shots.Shot] = [shots.Shot(0, 1) for _ in frames]
    else:
        found = shots.find_shots(frames, info.fps, cfg.shots)
    for shot in found:
        while held.samples and held.samples[0].index < shot.start:
            held.samples.popleft()
        while held.greys and held.greys[0][0] < shot.start:
            held.greys.popleft()
        stop = shot.start + shot.frames
        samples = [sample for sample in held.samples if sample.index < stop]
        keys = []
        # A film of flat frames only is one shot of any length, without key frames.
        if held.greys and held.greys[0][0] == shot.start:
            keys = [held.greys[k][1] for k in duplicates.key_frames(shot.frames)]
        yield _Clip(shot, samples, keys)


def _watched(
    frames: Iterable[np.ndarray], step: int, held: _Held
) -> Iterator[np.ndarray]:
    """Yields all frames, shrunk for the search for shots, and holds what clips need."""
    for index, frame in enumerate(frames):
        if index % step == 0:
            held.samples.append(_sampled(index, frame))
        small = at_most(frame, longer=cuts.SIDE)
        held.greys.append((index, duplicates.key_picture(small)))
        yield small


def _sampled(index: int, frame: np.ndarray) -> Sampled:
    rows, columns = borders.levels(frame)
    return Sampled(
        index=index,
        # A copy, since readers may yield the same array again.
        picture=at_most(frame.copy(), shorter=WORKING_SIDE),
        rows=rows,
        columns=columns,
        blockiness=picture.blockiness(frame),
    )


def _row(
    clip: _Clip,
    info: VideoInfo,
    sha256: str,
    cfg: CurateConfig,
    scorers: Scorers,
) -> Row:
    shot, samples, keys = clip
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
        "people": people.scores(pictures, scorers.people),
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
    hashed = duplicates.clip_hash(
        [borders.cropped(key, box, height, width) for key in keys]
    )
    row["hash"] = hashed.hex() if hashed else None
    row["thumb"] = _jpeg(pictures[len(pictures) // 2]) if pictures else None
    return row


def _clip_id(sha256: str, row: Row) -> str:
    place = [sha256, row["start_frame"], row["frames"], *row["crop"]]
    return hashlib.sha256(" ".join(map(str, place)).encode()).hexdigest()


def _jpeg(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(at_most(pixels, shorter=_THUMB)).save(out, "JPEG", quality=75)
    return base64.b64encode(out.getvalue()).decode()
