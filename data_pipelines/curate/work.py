"""The work on one file: its rows, stored under the hash of its bytes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.curate.film import (
    CurateConfig,
    Row,
    Scorers,
    curate_file,
    identity,
    sha256_of,
)
from data_pipelines.records import write_whole
from soraxla.core.errors import UserError


class Film(NamedTuple):
    """A file below the source's folder, and the folder that its rows are stored in."""

    root: str
    source: str  # relative, with slashes
    progress: str
    size: int  # bytes
    modified: int  # nanoseconds


def compute(film: Film, cfg: CurateConfig, scorers: Scorers) -> tuple[Film, str]:
    """Stores the rows of a file unless they are stored; returns its SHA-256.

    Raises:
        UserError: the file changed since the list of files was made.
    """
    path = Path(film.root, film.source)
    sha = sha256_of(path)
    place = Path(film.progress, f"{sha}.json")
    key = _key(cfg)
    if read_stored(place).get("key") != key:
        rows = curate_file(path, sha, cfg, scorers)
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (film.size, film.modified):
            raise UserError(f"{path}: changed while it was read; run again")
        made = {"key": key, "rows": rows}
        write_whole(place, (json.dumps(made, ensure_ascii=False) + "\n").encode())
    return film, sha


def computed(film: Film, cfg: CurateConfig, scorers: Scorers) -> tuple[str, list[Row]]:
    """Returns the SHA-256 and the rows of a file; see `compute`."""
    _, sha = compute(film, cfg, scorers)
    return sha, list(stored(film, sha))


def stored(film: Film, sha256: str) -> Iterator[Row]:
    """Yields the stored rows of a file, with the file's name."""
    for row in read_stored(Path(film.progress, f"{sha256}.json"))["rows"]:
        yield row | {"source": film.source, "source_sha256": sha256}


def _key(cfg: CurateConfig) -> str:
    text = json.dumps(identity(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_stored(place: Path) -> dict[str, Any]:
    """Returns the JSON of a finished file; an empty one if there is none."""
    try:
        made = json.loads(place.read_bytes())
    except (FileNotFoundError, ValueError):  # a damaged one is computed again
        return {}
    return made if isinstance(made, dict) else {}
