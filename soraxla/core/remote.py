"""Files and folders of object stores, by fsspec: gs://, s3://, az:// and hf://.

A store has objects, whose names have slashes, and no folders. An object appears whole
or not at all, but several do not appear at once, and nothing can be renamed. A folder
is therefore uploaded in an order, so that the file that makes it valid comes last.
"""

import atexit
import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils.epath.gpath import PosixGPath
from fsspec.config import conf

from soraxla.core.errors import UserError

# Other processes write to the same buckets, so listings are never kept.
for _scheme in ("gcs", "gs"):
    conf.setdefault(_scheme, {}).setdefault("use_listings_cache", False)

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
# Fields of a listing that change with an object's content, by store.
_STAMPS = ("md5Hash", "crc32c", "etag", "ETag", "content_md5", "oid", "mtime")
_copies: dict[tuple[str, ...], Path] = {}


class RemotePath(PosixGPath):
    """A path of an object store, whose errors name it in one line.

    It has the methods of `pathlib.Path` that read, write and list. A folder exists as
    long as there is an object below it.
    """

    @property
    def key(self) -> str:
        """The bucket and the object's name."""
        return str(self).partition("://")[2]

    @property
    def bucket(self) -> str:
        """The bucket's address."""
        scheme, _, key = str(self).partition("://")
        return f"{scheme}://{key.partition('/')[0]}"

    @property
    def store(self) -> Any:
        """The file system of the scheme."""
        scheme = str(self).partition("://")[0]
        try:
            return fsspec.filesystem("gcs" if scheme == "gs" else scheme)
        except ImportError as error:
            package = _PACKAGES[scheme]
            extra = "'soraxla[gcs]'" if scheme == "gs" else package
            raise UserError(
                f"{self}: needs the package {package}; run pip install {extra}"
            ) from error

    def resolve(self, strict: bool = False) -> "RemotePath":
        """Returns the path itself, which is absolute."""
        return self

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        with reaching(self):
            try:
                return self.store.info(self.key)["type"]
            except FileNotFoundError:
                return None

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yields what is in the folder, in order; raises FileNotFoundError."""
        with reaching(self):
            found = self.store.ls(self.key, detail=False)
        names = {each.rstrip("/").rpartition("/")[2] for each in found}
        # Some tools make an empty object with the folder's name.
        own = f"{self.key}/"
        if own in found:
            names.discard(self.name)
        return (self / name for name in sorted(names))

    def below(self) -> dict[str, str]:
        """Returns all files below the folder: relative names, and what identifies them.

        A name's value changes with the file's content.
        """
        with reaching(self):
            found = self.store.find(self.key, detail=True)
        start = f"{self.key}/"
        return {
            name.removeprefix(start): _stamp(info)
            for name, info in sorted(found.items())
            if name.startswith(start) and not name.endswith("/")
        }

    def read_bytes(self) -> bytes:
        with reaching(self):
            return self.store.cat_file(self.key)

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> int:
        with reaching(self, writing=True):
            self.store.pipe_file(self.key, data)
        return len(data)

    def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None
    ) -> int:
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def create(self, data: bytes) -> bool:
        """Writes an object unless there is one; returns whether it was written.

        The store decides, so of several processes one succeeds.
        """
        with reaching(self, writing=True):
            try:
                self.store.pipe_file(self.key, data, mode="create")
            except FileExistsError:
                # The answer to a request that is repeated after a lost reply.
                return self.store.cat_file(self.key) == data
        return True

    def mkdir(
        self, mode: int | None = None, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """Does nothing, since a store has no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        with reaching(self, writing=True):
            try:
                self.store.rm_file(self.key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def rmtree(self, missing_ok: bool = False) -> None:
        with reaching(self, writing=True):
            try:
                self.store.rm(self.key, recursive=True)
            except FileNotFoundError:
                if not missing_ok:
                    raise


@contextlib.contextmanager
def reaching(place: RemotePath, *, writing: bool = False) -> Iterator[None]:
    """Turns the errors of a store into a UserError, or FileNotFoundError, of a place.

    Args:
        writing: a missing place is a bucket that does not exist.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        if writing:
            raise UserError(
                f"{place}: cannot be written, there is no bucket {place.bucket}; "
                "create it, or correct the address"
            ) from error
        code = errno.ENOENT
        raise FileNotFoundError(code, os.strerror(code), str(place)) from error
    except Exception as error:  # each store's library has its own types
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of a local file
        reason = " ".join((str(error) or repr(error)).split())[:200]
        raise UserError(
            f"{place}: cannot be reached ({reason}); check the address, the network, "
            f"and that this account may read and write in {place.bucket}"
        ) from error


def _stamp(info: dict[str, Any]) -> str:
    return ", ".join(
        str(info[name]) for name in ("size", *_STAMPS) if info.get(name) is not None
    )


# --- Copies -----------------------------------------------------------------------


def copy_of(place: RemotePath) -> Path:
    """Returns a local copy of a file or folder; see `soraxla.core.paths.fetched`."""
    if (kind := place._kind()) is None:
        code = errno.ENOENT
        raise FileNotFoundError(code, os.strerror(code), str(place))
    if kind == "file":
        with reaching(place):
            found = {"": _stamp(place.store.info(place.key))}
    else:
        found = place.below()
    wanted = str(place), *(f"{name} {stamp}" for name, stamp in found.items())
    if wanted not in _copies:
        folder = Path(tempfile.mkdtemp(prefix="soraxla_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        # The path shows the address in messages.
        _copies[wanted] = download(place, folder / str(place).replace("://", "/"))
    return _copies[wanted]


def download(place: RemotePath, target: Path, names: list[str] | None = None) -> Path:
    """Downloads a file to the path `target`, or files of a folder into it.

    Args:
        names: of files below the folder; None is all, or the file.
    """
    if names is None:
        names = [] if place.is_file() else list(place.below())
        pairs = {name: target / name for name in names} or {"": target}
    else:
        pairs = {name: target / name for name in names}
    for path in {path.parent for path in pairs.values()}:
        path.mkdir(parents=True, exist_ok=True)
    keys = [str(place / name if name else place).partition("://")[2] for name in pairs]
    with reaching(place):
        place.store.get(keys, [str(path) for path in pairs.values()])
    return target


@contextlib.contextmanager
def downloaded(place: RemotePath) -> Iterator[Path]:
    """Yields a local copy of a file until the block ends."""
    with tempfile.TemporaryDirectory(prefix="soraxla_") as folder:
        yield download(place, Path(folder, place.name))


def upload(source: Path, place: RemotePath, names: list[str] | None = None) -> None:
    """Uploads a file, or the files of a folder, that which makes it valid last.

    Args:
        names: of files below the folder; None is all, or the file.
    """
    if names is None and source.is_file():
        pairs = [(source, place)]
    else:
        if names is None:
            below = (path for path in source.rglob("*") if path.is_file())
            names = [path.relative_to(source).as_posix() for path in below]
        pairs = [(source / name, place / name) for name in in_order(names)]
    first = [pair for pair in pairs if pair[0].suffix != ".json"]
    with reaching(place, writing=True):
        for group in (first, *([pair] for pair in pairs if pair not in first)):
            local, keys = [str(path) for path, _ in group], [to.key for _, to in group]
            place.store.put(local, keys)


def in_order(names: list[str]) -> list[str]:
    """Returns names in the order in which a folder's files are uploaded.

    Readers recognise a folder by its JSON files, such as `dit/config.json`, so these
    come last, and the one in the outermost folder at the very end.
    """
    backwards = sorted(names, reverse=True)  # vae/config.json before dit/config.json
    return sorted(backwards, key=lambda n: (n.endswith(".json"), -n.count("/")))
