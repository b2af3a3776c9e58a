"""An object store in memory, which fsspec, and so etils.epath, takes for gs://.

Objects appear whole, in no folders, and nothing is renamed. Calls are counted, writes
can be refused, and a bucket must exist.
"""

import io
from collections import Counter
from typing import Any

import fsspec
import pytest
from etils.epath import backend
from fsspec.spec import AbstractFileSystem

from soraxla.core import remote


class FakeStore:
    """The objects of all buckets, by "BUCKET/NAME"."""

    def __init__(self, *buckets: str):
        self.buckets = set(buckets)
        self.objects: dict[str, bytes] = {}
        self.generations: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.written: list[str] = []  # names in the order of writing
        self.read_only = False
        self.fails_at: str | None = None  # a name whose writing fails

    def read(self, name: str) -> bytes:
        self.calls["read"] += 1
        self._check_bucket(name)
        if name not in self.objects:
            raise FileNotFoundError(f"https://storage/{name}")
        return self.objects[name]

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        self.calls["write"] += 1
        self._check_bucket(name)
        self._check_rights(name)
        if self.fails_at is not None and name.endswith(self.fails_at):
            raise KeyboardInterrupt
        if create and name in self.objects:
            raise FileExistsError(f"https://storage/{name}")
        self.objects[name] = data
        self.generations[name] = 1 + max(self.generations.values(), default=0)
        self.written.append(name)

    def delete(self, name: str) -> None:
        self.calls["delete"] += 1
        self._check_rights(name)
        self.read(name)
        del self.objects[name]

    def names(self, prefix: str) -> list[str]:
        self.calls["list"] += 1
        self._check_bucket(prefix)
        return sorted(name for name in self.objects if name.startswith(prefix))

    def _check_bucket(self, name: str) -> None:
        if name.partition("/")[0] not in self.buckets:
            raise FileNotFoundError(f"https://storage/{name}")

    def _check_rights(self, name: str) -> None:
        if self.read_only:
            raise OSError(f"Forbidden: https://storage/{name}\nno access to {name}")


class FakeFileSystem(AbstractFileSystem):
    """The methods of gcsfs that are used, over the store of the running test."""

    protocol = ("gcs", "gs")
    cachable = False
    objects: FakeStore

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        name = str(self._strip_protocol(path))
        if name in self.objects.objects:
            data = self.objects.read(name)
            etag = str(self.objects.generations[name])
            return {"name": name, "type": "file", "size": len(data), "etag": etag}
        if self.objects.names(f"{name}/") or name in self.objects.buckets:
            return {"name": name, "type": "directory", "size": 0}
        raise FileNotFoundError(name)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        name = str(self._strip_protocol(path))
        below = self.objects.names(f"{name}/")
        if not below and "/" in name:
            raise FileNotFoundError(name)
        start = len(name) + 1
        found = sorted({f"{name}/{n[start:].partition('/')[0]}" for n in below})
        return [self.info(n) for n in found] if detail else found

    def cat_file(self, path: str, start=None, end=None, **kwargs: Any) -> bytes:
        return self.objects.read(str(self._strip_protocol(path)))[start:end]

    def pipe_file(
        self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        name = str(self._strip_protocol(path))
        self.objects.write(name, bytes(value), create=mode == "create")

    def rm_file(self, path: str) -> None:
        self.objects.delete(str(self._strip_protocol(path)))

    def rm(self, path: str, recursive: bool = False, **kwargs: Any) -> None:
        name = str(self._strip_protocol(path))
        below = self.objects.names(f"{name}/") if recursive else []
        found = [name] if name in self.objects.objects else below
        if not found:
            raise FileNotFoundError(name)
        for each in found:
            self.objects.delete(each)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        self.pipe_file(path2, self.cat_file(path1))

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        assert mode == "wb", mode
        return _Written(self, path)


class _Written(io.BytesIO):
    def __init__(self, files: FakeFileSystem, path: str):
        super().__init__()
        self._files, self._path = files, path

    def close(self) -> None:
        if not self.closed:
            self._files.pipe_file(self._path, self.getvalue())
        super().close()


def installed(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """Returns a store with the empty bucket gs://bucket, used until a test ends."""
    made = FakeStore("bucket")
    fsspec.register_implementation("gcs", FakeFileSystem, clobber=True)
    monkeypatch.setattr(FakeFileSystem, "objects", made, raising=False)
    backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setattr(remote, "_copies", {})
    return made
