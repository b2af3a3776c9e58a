"""Actions of a LeRobot dataset, in units of their statistics.

Joints are recorded in degrees, radians or metres. A model is steered by numbers of
about 1, so an action is (value − mean) / deviation, with the mean and the standard
deviation that the dataset states: in `meta/stats.json`, or for v2.1 by episode in
`meta/episodes_stats.jsonl`, whose groups are merged (Chan et al., 1979).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from soraxla.core.errors import UserError

_ACTION = "action"
_STATS, _BY_EPISODE = "meta/stats.json", "meta/episodes_stats.jsonl"
_LEAST = 1e-6  # deviation of a joint that moves


@dataclass(frozen=True, kw_only=True, eq=False)
class Actions:
    """The names of actions, and the mean and deviation (a,) of each."""

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, root: Path, features: Mapping[str, Any]) -> "Actions | None":
        """Returns the actions of a dataset; None without numbers or statistics.

        Raises:
            UserError: the statistics are damaged.
        """
        feature = features.get(_ACTION) or {}
        shape = list(feature.get("shape") or ())
        if len(shape) != 1 or not str(feature.get("dtype")).startswith(
            ("float", "int")
        ):
            return None
        try:
            mean, std = _statistics(root)
            if mean is None or std is None:
                return None
            if mean.shape != (shape[0],) or std.shape != mean.shape:
                raise ValueError(f"{mean.shape} numbers for {shape[0]} actions")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{root / 'meta'}: its statistics of actions are damaged ({error}); "
                "download the dataset again"
            ) from None
        return cls(names=_names(feature.get("names"), shape[0]), mean=mean, std=std)


def read_actions(
    table: Path, episode: int, frames: int, recorded: Actions
) -> np.ndarray:
    """Returns an episode's actions, float32 (frames, a); row 0 is 0.

    Row i is the action that leads from frame i − 1 to frame i.

    Raises:
        UserError: the table is missing or damaged, or has other rows.
    """
    if not table.is_file():
        raise UserError(f"{table}: no such file; download the dataset again")
    try:
        found = pq.read_table(
            table,
            columns=[_ACTION, "frame_index"],
            filters=[("episode_index", "=", episode)],
        ).sort_by("frame_index")
        values = np.array(found[_ACTION].to_pylist(), np.float64)
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{table}: its actions cannot be read ({reason})") from None
    if values.shape != (frames, len(recorded.names)):
        raise UserError(
            f"{table}: has actions {values.shape} of episode {episode}, expected "
            f"({frames}, {len(recorded.names)})"
        )
    scale = np.where(recorded.std > _LEAST, recorded.std, 1.0)
    rows = np.zeros(values.shape, np.float32)
    rows[1:] = ((values - recorded.mean) / scale)[:-1]
    return rows


def _names(names: Any, count: int) -> tuple[str, ...]:
    """Returns a name for each action; those of a dict are joined in its order."""
    groups = names.values() if isinstance(names, dict) else [names]
    flat = [str(name) for group in groups for name in _listed(group)]
    if len(set(flat)) == count == len(flat):
        return tuple(flat)
    return tuple(f"{_ACTION}_{i}" for i in range(count))


def _listed(group: Any) -> list[Any]:
    return list(group) if isinstance(group, (list, tuple)) else []


def _statistics(root: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the mean and the standard deviation of the actions; None if unknown."""
    if (root / _STATS).is_file():
        stats = json.loads((root / _STATS).read_bytes()).get(_ACTION)
        if stats is None:
            return None, None
        return np.array(stats["mean"], float), np.array(stats["std"], float)
    count, mean, squares = 0.0, np.zeros(()), np.zeros(())
    for group in _groups(root / _BY_EPISODE):
        n = float(np.ravel(group["count"])[0])
        delta = np.array(group["mean"], float) - mean
        mean = mean + delta * n / (count + n)
        squares = squares + n * np.array(group["std"], float) ** 2
        squares = squares + delta**2 * count * n / (count + n)
        count += n
    return (mean, np.sqrt(squares / count)) if count else (None, None)


def _groups(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the statistics of the actions of each episode that has them."""
    if path.is_file():
        for line in path.read_bytes().split(b"\n"):
            if line.strip():
                stats = json.loads(line)["stats"]
                if _ACTION in stats:
                    yield stats[_ACTION]
