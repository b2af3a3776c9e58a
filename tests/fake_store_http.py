"""HTTP access to the store of `tests.fake_store`, as Google's JSON API gives it.

TensorStore and ArrayRecord reach gs:// by themselves, and not by fsspec.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http import server
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.fake_store import FakeStore

_OBJECT = re.compile(r"(?:/storage/v1)?/b/([^/]+)/o/(.+)")
_BUCKET = re.compile(r"(?:/upload)?/storage/v1/b/([^/]+)/o")


@contextlib.contextmanager
def served(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serves a store to TensorStore and ArrayRecord until the block ends."""

    class Handler(_Handler):
        objects = store

    with server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        url = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anyone")
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", url)
        # Orbax asks google-cloud-storage for it, which is not installed.
        monkeypatch.setattr(
            "orbax.checkpoint._src.path.gcs_utils.is_hierarchical_namespace_enabled",
            lambda path: False,
        )
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            running.shutdown()
            thread.join()


class _Handler(server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: FakeStore

    def do_GET(self) -> None:
        path, query = self._parts()
        if found := _OBJECT.fullmatch(path):
            self._read(f"{found[1]}/{unquote(found[2])}")
        elif found := _BUCKET.fullmatch(path):
            self._list(found[1], query)
        else:
            self._answer(400, b"")

    def do_POST(self) -> None:
        path, query = self._parts()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        found = _BUCKET.fullmatch(path)
        assert found is not None
        name = f"{found[1]}/{query['name']}"
        if self._agrees(name, query):
            self.objects.write(name, data)
            self._answer(200, json.dumps(self._about(name)).encode())

    def do_DELETE(self) -> None:
        path, query = self._parts()
        found = _OBJECT.fullmatch(path)
        assert found is not None
        name = f"{found[1]}/{unquote(found[2])}"
        if name not in self.objects.objects:
            self._answer(404, b"")
        elif self._agrees(name, query):
            self.objects.delete(name)
            self._answer(204, b"")

    def _parts(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        return url.path, {
            name: last for name, [*_, last] in parse_qs(url.query).items()
        }

    def _agrees(self, name: str, query: dict[str, str]) -> bool:
        """Returns whether a request's precondition holds; refuses it otherwise."""
        there = name in self.objects.objects
        now = str(self.objects.generations[name] if there else 0)
        if query.get("ifGenerationMatch", now) == now:
            return True
        self._answer(412, b"")
        return False

    def _read(self, name: str) -> None:
        try:
            data = self.objects.read(name)
        except FileNotFoundError:
            self._answer(404, b"")
            return
        start, stop, status = 0, len(data), 200
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = asked.groups()
            start = int(first) if first else max(0, len(data) - int(last))
            stop = int(last) + 1 if first and last else stop
            status = 206
        part, generation = data[start:stop], str(self.objects.generations[name])
        span = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        headers = {"x-goog-generation": generation, "Content-Range": span}
        self._answer(status, part, headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        names = [n.partition("/")[2] for n in self.objects.names(f"{bucket}/")]
        start, end = query.get("startOffset", ""), query.get("endOffset")
        names = [n for n in names if start <= n and (end is None or n < end)]
        items = [self._about(f"{bucket}/{name}") for name in names]
        self._answer(200, json.dumps({"items": items}).encode())

    def _about(self, name: str) -> dict[str, str]:
        return {
            "name": name.partition("/")[2],
            "generation": str(self.objects.generations[name]),
            "size": str(len(self.objects.objects[name])),
        }

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass
