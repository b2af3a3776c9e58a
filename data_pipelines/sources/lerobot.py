"""Episodes of a LeRobot dataset: a clip for each camera, with tasks and actions.

The formats are those of https://github.com/huggingface/lerobot at 7427f31:
`DatasetInfo` in datasets/utils.py, dataset_metadata.py, and
convert_dataset_v21_to_v30.py, which shows v2.1 and v3.0 side by side. `meta/info.json`
has `codebase_version`, `fps`, `features` and the templates `data_path`, `video_path`.

- v2.0 and v2.1: `meta/episodes.jsonl` has a line {"episode_index", "tasks", "length"}
  for each episode, which has a video for each camera and a table;
- v3.0: a row of `meta/episodes/*/*.parquet` says in which files an episode is, and
  between which seconds of each video. Files hold many episodes one after the other.

Tables have a row for each frame. An action in it was taken after that frame.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources.content import content_of
from data_pipelines.sources.film import Film
from data_pipelines.sources.lerobot_actions import Actions, read_actions
from data_pipelines.sources.media import EVAL, TRAIN, Extent, Media
from soraxla.core.errors import UserError
from soraxla.media.read import VideoInfo, probe

_INFO, _EPISODES = "meta/info.json", "meta/episodes.jsonl"
_VERSION = re.compile(r"v(2\.[01]|3\.0)")
_RATES = 0.01  # a video's rate may differ by this share from the stated one
_REMEDY = "download the dataset again"
_SPAN = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """The frames of a camera in an episode; `uid` is CAMERA/episode_NUMBER."""

    source: "LeRobotSource"
    uid: str
    index: int
    file: Path
    start: float  # seconds of the video before it
    frames: int
    caption: str
    split: str
    table: Path

    def open(self) -> Media:
        """Opens the video at the episode; see `Sample.open`."""
        source = self.source
        if not self.caption:
            raise UserError("has no task, which would be its caption")
        info = source.probed(self.file)
        if abs(info.fps - source.fps) > _RATES * source.fps:
            raise UserError(
                f"{self.file}: has {info.fps:g} frames per second, and {_INFO} states "
                f"{source.fps:g}"
            )
        actions = None
        if source.recorded is not None:
            actions = read_actions(self.table, self.index, self.frames, source.recorded)
        first = round(self.start * source.fps)
        frames = source.film.read(self.file, first, self.frames)
        size = info.height, info.width
        return Media(
            self.caption, source.fps, frames, actions, size=size, split=self.split
        )

    def size(self) -> Extent:
        """Returns the size that the video and the list of episodes state."""
        info = self.source.probed(self.file)
        text = len(self.caption.encode())
        return Extent(info.height, info.width, self.frames, text)


class LeRobotSource(Sequence[Episode]):
    """The episodes of a LeRobot dataset's folder, camera by camera.

    The caption is the episode's tasks. Cameras are features of the dtype `video` that
    are no depth maps. Episodes of a split other than `train` are kept from training.
    Actions are in units of their statistics; see `lerobot_actions`.

    Attributes:
        recorded: the actions, or None.

    Raises:
        UserError: the folder is no dataset, its version is not known, or its lists are
            damaged or have no video.
    """

    camera = False

    def __init__(self, place: str):
        root = Path(place)
        info = _read_info(root)
        self.fps = float(info["fps"])
        self.recorded = Actions.of(root, info["features"])
        self.actions = self.recorded.names if self.recorded else ()
        self.film = Film(_REMEDY)
        self.probed = functools.lru_cache(maxsize=256)(_probed)
        rows = _episodes(root, info["codebase_version"])
        try:
            self._samples = [
                self._episode(root, info, camera, row)
                for camera in _cameras(root, info["features"])
                for row in rows
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise _damaged(root / "meta", error) from None
        if not self._samples:
            raise UserError(f"{root}: lists no episodes; {_REMEDY}")
        self.name = "lerobot"

    @cached_property
    def content(self) -> list[Any]:
        """Hashes of the list of episodes, and of the contents of the files."""
        digest = hashlib.sha256()
        for s in self._samples:
            digest.update(json.dumps([s.uid, s.start, s.frames, s.caption]).encode())
        files = {sample.file: None for sample in self._samples}
        scales = None
        if self.recorded is not None:
            files |= {sample.table: None for sample in self._samples}
            scales = [self.recorded.mean.tolist(), self.recorded.std.tolist()]
        return [digest.hexdigest(), scales, *map(content_of, files)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index]

    def _episode(
        self, root: Path, info: Mapping[str, Any], camera: str, row: Mapping[str, Any]
    ) -> Episode:
        index = int(row["episode_index"])
        places = {
            "episode_index": index,
            "episode_chunk": index // int(info.get("chunks_size") or 1000),
            "video_key": camera,
        }
        video, table = dict(places), dict(places)
        for name in ("chunk_index", "file_index"):
            if f"videos/{camera}/{name}" in row:
                video[name] = row[f"videos/{camera}/{name}"]
                table[name] = row[f"data/{name}"]
        tasks = row["tasks"]
        tasks = [tasks] if isinstance(tasks, str) else tasks or []
        return Episode(
            source=self,
            uid=f"{camera}/episode_{index:06d}",
            index=index,
            file=root / info["video_path"].format(**video),
            start=float(row.get(f"videos/{camera}/from_timestamp") or 0.0),
            frames=int(row["length"]),
            caption=" ".join("; ".join(tasks).split()),
            split=_split(info.get("splits") or {}, index),
            table=root / info["data_path"].format(**table),
        )


def _probed(file: Path) -> VideoInfo:
    return probe(file)


def _read_info(root: Path) -> dict[str, Any]:
    """Returns `meta/info.json` of a dataset of a known version."""
    path = root / _INFO
    if not path.is_file():
        raise UserError(
            f"{root}: is no LeRobot dataset of version 2 or 3 (it has no {_INFO})"
        )
    try:
        info = json.loads(path.read_bytes())
        version = str(info["codebase_version"])
        if not _VERSION.fullmatch(version):
            raise UserError(
                f"{path}: has the version {version}, expected v2.0, v2.1 or v3.0; "
                "convert the dataset with LeRobot's scripts"
            )
        if not float(info["fps"]) > 0:
            raise ValueError(f"fps is {info['fps']}")
        for name, kind in (("features", dict), ("data_path", str)):
            if not isinstance(info[name], kind):
                raise ValueError(f"{name} is no {kind.__name__}")
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None
    return info


def _cameras(root: Path, features: Mapping[str, Any]) -> list[str]:
    """Returns the names of the features that are videos, sorted."""
    found = [
        name
        for name, feature in features.items()
        if feature.get("dtype") == "video" and not _is_depth(feature)
    ]
    if not found:
        kinds = sorted({str(feature.get("dtype")) for feature in features.values()})
        raise UserError(
            f"{root}: has no camera stored as video, only {', '.join(kinds)}; convert "
            "images to videos with LeRobot's scripts"
        )
    return sorted(found)


def _is_depth(feature: Mapping[str, Any]) -> bool:
    facts = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(facts.get("is_depth_map") or facts.get("video.is_depth_map"))


def _episodes(root: Path, version: str) -> list[dict[str, Any]]:
    """Returns the list of episodes, by number."""
    if version.startswith("v2"):
        rows = list(read_lines(root / _EPISODES))
    else:
        rows = []
        for path in sorted(root.glob("meta/episodes/*/*.parquet")):
            try:
                names = pq.read_schema(path).names
                kept = [name for name in names if not name.startswith("stats/")]
                rows += pq.read_table(path, columns=kept).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from None
    try:
        return sorted(rows, key=lambda row: int(row["episode_index"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(root / "meta", error) from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSON Lines file; raises UserError if it is damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_REMEDY}")
    # Not splitlines, which also splits at other characters inside texts.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                yield dict(json.loads(line))
            except (TypeError, ValueError) as error:
                raise _damaged(Path(f"{path}:{number}"), error) from None


def _split(splits: Mapping[str, Any], index: int) -> str:
    """Returns the split of an episode by entries such as {"test": "8:10"}."""
    for name, span in splits.items():
        bounds = _SPAN.fullmatch(str(span))
        if name != TRAIN and bounds and int(bounds[1]) <= index < int(bounds[2]):
            return EVAL
    return TRAIN


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    if isinstance(error, KeyError):
        reason = f"has no {reason}"
    return UserError(f"{path}: is damaged ({reason}); {_REMEDY}")
