"""Checksums of checkpoints: written beside them, verified before they are read.

The compressed arrays of a checkpoint have no checksum, so a flipped bit may load as
another number. Every process writes the checksums of the files that it has
written, and verifies a part of all files.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file

CHECKSUMS = "checksums"
_OF_PROCESS = re.compile(r"ocdbt\.process_(\d+)/")
_UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")  # written at the commit


def write_checksums(checkpoint: Path, place: Path) -> None:
    """Writes those of this process's files of a checkpoint into the folder `place`.

    Nothing happens if they are there already, or if the checkpoint is not whole yet or
    no longer there.
    """
    process = jax.process_index()
    target = place / f"{checkpoint.name}.{process}.json"
    if target.exists() or not checkpoint.is_dir():
        return
    try:
        found = {
            name: _sha256(checkpoint / name)
            for name in _files(checkpoint)
            if _owner(name) == process
        }
    except FileNotFoundError:  # an old checkpoint is removed meanwhile
        return
    place.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def remove_stale(checkpoints: Path, place: Path) -> None:
    """Removes the checksums of checkpoints that are no longer there."""
    for path in place.glob("*.*.json"):
        if not (checkpoints / path.name.partition(".")[0]).exists():
            path.unlink(missing_ok=True)


def verify(checkpoint: Path, place: Path) -> None:
    """Verifies this process's part of a checkpoint that has checksums.

    Raises:
        UserError: a file is missing or has other bytes than were written.
    """
    expected: dict[str, str] = {}
    for path in place.glob(f"{checkpoint.name}.*.json"):
        expected |= json.loads(path.read_text(encoding="utf-8"))
    names = sorted(expected)[jax.process_index() :: jax.process_count()]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: _sha256(checkpoint / name), names)
        for name, digest in zip(names, found, strict=True):
            if digest != expected[name]:
                raise UserError(f"the bytes of {name} are not those that were written")


def _files(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _UNCHECKED
    ]


def _owner(name: str) -> int:
    """Returns the process that wrote a file; 0 writes those of all."""
    found = _OF_PROCESS.search(name)
    return int(found[1]) if found else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
