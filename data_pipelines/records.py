"""The files of a prepared dataset: records, index and card.

docs/dataset.md describes the layout for readers without soraxla.
"""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import copy_tree, naming

FORMAT = 3
_READABLE = (2, FORMAT)  # shards of format 2 have equal counts, and its index no split
CARD, INDEX, SKIPPED = "dataset.json", "index.parquet", "skipped.jsonl"
PROGRESS = "progress"  # while a dataset is prepared
_GROUP = 1 << 17  # rows of the index that are written at once
FEATURES = "features"  # a record's tensor, and the card's entry
EMPTY_TEXT, VAE = "empty_text.safetensors", "vae"

INDEX_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("record", pa.int32()),
        *((name, pa.int32()) for name in ("t", "h", "w")),
        ("fps", pa.float64()),
        *((name, pa.int32()) for name in ("height", "width", "frames")),
        ("text_length", pa.int32()),
        ("caption", pa.string()),
        ("source", pa.string()),
        ("crop", pa.list_(pa.int32())),
        ("start_frame", pa.int32()),
        ("split", pa.string()),
        *((name, pa.int32()) for name in ("alone", "tails", "spatial")),
    ]
)


def shard_name(shard: int) -> str:
    """Returns the file name of a shard of records."""
    return f"data-{shard:05d}.array_record"


def encode_record(**tensors: Shaped[np.ndarray, "..."]) -> bytes:
    """Serialises tensors as safetensors bytes, in bfloat16."""
    return safetensors.numpy.save(
        {
            name: np.ascontiguousarray(tensor, dtype=ml_dtypes.bfloat16)
            for name, tensor in tensors.items()
        }
    )


def decode_record(data: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns the bfloat16 tensors of `encode_record`.

    (safetensors' NumPy loader has no bfloat16.)
    """
    return {
        name: np.frombuffer(spec["data"], ml_dtypes.bfloat16).reshape(spec["shape"])
        for name, spec in safetensors.deserialize(data)
    }


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_lines(path: Path, entries: Iterable[Any]) -> None:
    """Writes a JSONL file atomically."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    write_whole(path, "".join(lines).encode())


class IndexWriter(contextlib.AbstractContextManager["IndexWriter"]):
    """A Parquet file of rows of INDEX_SCHEMA, which appears whole or not at all.

    Rows wait until they fill a group, so a long index needs the memory of a short one.
    """

    def __init__(self, path: Path):
        self._stack = contextlib.ExitStack()
        self._rows: list[dict[str, Any]] = []
        partial = self._stack.enter_context(atomic_file(path))
        self._file = self._stack.enter_context(pq.ParquetWriter(partial, INDEX_SCHEMA))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Appends rows."""
        self._rows += rows
        while len(self._rows) >= _GROUP:
            self._write_group()

    def write_table(self, table: pa.Table) -> None:
        """Appends rows of an index before all others."""
        assert not self._rows
        self._file.write_table(table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA))

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._write_group()
        return self._stack.__exit__(*error)

    def _write_group(self) -> None:
        group, self._rows = self._rows[:_GROUP], self._rows[_GROUP:]
        self._file.write_table(pa.Table.from_pylist(group, schema=INDEX_SCHEMA))


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder atomically; replaces `target`."""
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as partial:
        copy_tree(source, partial)


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turns ArrayRecord's errors into a UserError that names the file."""
    try:
        with naming(file):
            yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: cannot be written ({reason})") from None


def read_card(path: Path) -> dict[str, Any]:
    """Returns `dataset.json` of a prepared dataset.

    Raises:
        UserError: there is none, or it is damaged or of another format version.
    """
    file = path / CARD
    if not file.is_file():
        begun = (path / PROGRESS).is_dir()
        what = "finished" if begun else "a prepared dataset"
        raise UserError(f"{path}: is not {what} (no {CARD}); run soraxla prepare")
    try:
        card = json.loads(file.read_bytes())
        version = card["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: is damaged ({error}); copy it again") from None
    if version not in _READABLE:
        raise UserError(f"{file}: has format {version}, expected {FORMAT}; prepare it")
    return card
