"""Films and results of an object store, by Beam's file systems: gs://, s3://, hdfs://.

A worker copies a film and its stored rows to its own disk, computes there as on one
machine, and copies new rows back.
"""

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.curate.film import CurateConfig, Row, Scorers, sha256_of
from data_pipelines.curate.work import Film, compute, stored
from data_pipelines.records import PROGRESS
from soraxla.core.errors import UserError
from soraxla.media.read import MEDIA_SUFFIXES


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Returns True for the URL of an object store."""
    return "://" in os.fspath(place)


def file_systems() -> Any:
    """Returns Beam's file systems, which choose one by a URL's scheme."""
    return importlib.import_module("apache_beam.io.filesystems").FileSystems


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Turns the errors of file systems into UserError with the URL."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{place}: cannot be read or written ({reason})") from None


def films_below(root: str, out: str) -> list[Film]:
    """Returns all videos and pictures below a URL, sorted by name.

    Raises:
        UserError: there are none, or the store cannot be read.
    """
    root = root.rstrip("/")
    with naming(root):
        found = file_systems().match([f"{root}/**"])[0].metadata_list
    films = []
    for entry in found:
        name = entry.path.removeprefix(f"{root}/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if Path(name).suffix.lower() in MEDIA_SUFFIXES and not hidden:
            films.append(Film(root, name, f"{out}/{PROGRESS}", entry.size_in_bytes, 0))
    if not films:
        raise UserError(f"{root}: holds no media; name a folder of films or pictures")
    return sorted(films, key=lambda film: film.source)


def computed(film: Film, cfg: CurateConfig, scorers: Scorers) -> tuple[str, list[Row]]:
    """Returns the SHA-256 and the rows of a film, which are in the store afterwards.

    Raises:
        UserError: the film or the rows cannot be read or written.
    """
    place = f"{film.root}/{film.source}"
    with tempfile.TemporaryDirectory() as folder, naming(place):
        path = Path(folder, Path(film.source).name)
        get(place, path)
        status = path.stat()
        local = Film(folder, path.name, folder, status.st_size, status.st_mtime_ns)
        sha = sha256_of(path)
        rows, there = Path(folder, f"{sha}.json"), f"{film.progress}/{sha}.json"
        if file_systems().exists(there):
            get(there, rows)
        old = rows.read_bytes() if rows.exists() else None
        compute(local, cfg, scorers)
        if rows.read_bytes() != old:
            put(rows, there)
        return sha, list(stored(local._replace(source=film.source), sha))


def names(folder: str) -> list[str]:
    """Returns the names of the files in a folder or below a URL; none if absent."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = file_systems().match([f"{folder}/*"])[0].metadata_list
    return sorted(entry.path.rpartition("/")[2] for entry in found)


def clear(folder: str) -> None:
    """Removes a local folder or the objects below a URL; there may be none."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif left := [f"{folder}/{name}" for name in names(folder)]:
        file_systems().delete(left)


def touch(place: str) -> None:
    """Makes an empty file or object."""
    if is_remote(place):
        file_systems().create(place).close()
    else:
        Path(place).touch()


def read_text(place: str) -> str:
    """Returns the text of a file or object."""
    if not is_remote(place):
        return Path(place).read_text(encoding="utf-8")
    with file_systems().open(place, **_plain()) as file:
        return file.read().decode()


def get(place: str, path: Path) -> None:
    """Copies an object to a local file."""
    with file_systems().open(place, **_plain()) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def put(path: Path, place: str) -> None:
    """Copies a local file to an object, which appears whole."""
    with path.open("rb") as source, file_systems().create(place, **_plain()) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _plain() -> dict[str, str]:
    """Returns arguments that keep Beam from unpacking what is named .gz or .bz2."""
    types: Any = importlib.import_module("apache_beam.io.filesystem").CompressionTypes
    return {"compression_type": types.UNCOMPRESSED}
