"""Files and folders of an object store."""

from pathlib import Path

import pytest

from soraxla.core.errors import UserError
from soraxla.core.paths import fetched, is_remote, place, place_or_name
from soraxla.core.remote import downloaded, in_order, upload


def test_an_address_is_a_remote_path_and_other_texts_are_local():
    run = place("gs://bucket/runs/a")
    assert is_remote(run) and str(run / "b" / "..c") == "gs://bucket/runs/a/b/..c"
    assert str(run.parent) == "gs://bucket/runs"
    assert place(run) is run and place(Path("gs://bucket/x")) == place("gs://bucket/x")
    for text in ("runs/a", "hf:ORG/NAME", "umt5:gs://b/x", "https://b/x", "gs:x"):
        assert isinstance(place(text), Path)
        assert place_or_name(text) == text


def test_a_file_is_written_read_listed_and_removed(store):
    folder = place("gs://bucket/runs")
    file = folder / "a" / "x.txt"
    assert not folder.exists() and not file.is_file()
    file.write_text("é")
    assert file.read_text() == "é" and file.is_file() and not file.is_dir()
    assert folder.is_dir() and [str(x) for x in folder.iterdir()] == [
        "gs://bucket/runs/a"
    ]
    assert list(folder.below()) == ["a/x.txt"]
    file.unlink()
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"gs://bucket/runs/a/x\.txt"):
        file.read_bytes()
    assert not store.objects


def test_one_of_two_processes_creates_an_object(store):
    lock = place("gs://bucket/.lock")
    assert lock.create(b"one") and not lock.create(b"two")
    assert lock.create(b"one")  # its reply was lost, and the request was repeated
    assert store.objects["bucket/.lock"] == b"one"


def test_a_folder_goes_there_and_back_with_its_json_files_last(store, tmp_path):
    names = ["dit/config.json", "dit/stem.safetensors", "vae/config.json", "top.json"]
    names.append("vae/stem.safetensors")
    for name in names:
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text(name)
    upload(tmp_path / "a", place("gs://bucket/model"))
    assert store.written[2:] == [
        f"bucket/model/{n}" for n in ("vae/config.json", "dit/config.json", "top.json")
    ]
    assert in_order(names)[-1] == "top.json"
    model = place("gs://bucket/model")
    copy = fetched(model)
    assert {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()} == {
        *names
    }
    assert (copy / "top.json").read_text() == "top.json"
    calls = store.calls["read"]
    assert fetched(model) == copy and store.calls["read"] <= calls + len(names)
    (model / "top.json").write_text("changed")
    assert (fetched(model) / "top.json").read_text() == "changed"
    assert (copy / "top.json").read_text() == "top.json"
    assert fetched(model / "top.json").read_text() == "changed"


def test_a_download_is_removed_at_the_end_of_its_block(store):
    film = place("gs://bucket/a.mp4")
    film.write_bytes(b"x")
    with downloaded(film) as file:
        assert file.name == "a.mp4" and file.read_bytes() == b"x"
    assert not file.parent.exists()


def test_what_cannot_be_reached_is_one_line(store):
    with pytest.raises(UserError, match=r"^gs://no/x: .*there is no bucket gs://no"):
        place("gs://no/x").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as missing:
        fetched(place("gs://no/x"))
    assert missing.value.filename == "gs://no/x"
    store.read_only = True
    with pytest.raises(UserError) as refused:
        place("gs://bucket/x").write_bytes(b"")
    line = str(refused.value)
    assert line.startswith("gs://bucket/x: cannot be reached (Forbidden: ")
    assert "\n" not in line and line.endswith("read and write in gs://bucket")


def test_a_missing_package_is_named(monkeypatch):
    def missing(protocol):
        raise ImportError(f"install {protocol}")

    monkeypatch.setattr("soraxla.core.remote.fsspec.filesystem", missing)
    with pytest.raises(UserError, match=r"needs the package gcsfs.*soraxla\[gcs\]"):
        place("gs://bucket/x").exists()
    with pytest.raises(UserError, match=r"needs the package s3fs; .*install s3fs$"):
        place("s3://bucket/x").read_bytes()
