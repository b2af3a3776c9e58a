"""Tar archives as a source: groups, captions, estimates, and every kind of fault."""

import gzip
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from data_pipelines import shards
from data_pipelines.sources import embedded
from data_pipelines.sources.files import fingerprint, open_source
from data_pipelines.sources.media import Extent, SizedSample, Source
from data_pipelines.sources.shard_names import expanded, files_of
from soraxla.core.errors import UserError
from soraxla.media.write import write_video
from tests.data_pipelines.test_prepare import content, encode_video, run


def picture(value):
    data = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The bytes of a clip of 9 frames of 32x32 pixels at 12 frames per second."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_video(path, [np.full((32, 32, 3), 20 * t, np.uint8) for t in range(9)], 12)
    return path.read_bytes()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            data = data if isinstance(data, bytes) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def root(tmp_path, clip):
    """Two archives with five good samples."""
    root = tmp_path / "clips"
    facts = json.dumps({"url": "x", "caption": ["the  caption\nof c", "another"]})
    write_tar(
        root / "part" / "00001.tar",
        [("c.jpg.md5", "f00"), ("c.png", picture(30)), ("c.JSON", facts)],
    )
    write_tar(
        root / "00000.tar",
        [
            ("__meta__.json", "{}"),
            ("./b/1.mp4", clip),
            ("a.png", picture(10)),
            ("._a.png", "a resource of macOS"),
            ("README", "no field"),
            ("a.txt", "a caption\n"),
            ("b/1.txt", "a clip"),
            ("d.seg.png", picture(1)),
            ("d.png", picture(40)),
            ("d.json", '{"caption": "of the file .json"}'),
            ("d.txt", "of the file .txt"),
        ],
    )
    return root


def test_members_of_a_key_are_a_sample(root):
    samples = open_source(f"wds:{root}")
    assert isinstance(samples, Source) and isinstance(samples[0], SizedSample)
    opened = {s.uid: s.open() for s in samples}
    assert list(opened) == [
        *("00000.tar/b/1", "00000.tar/a", "00000.tar/d", "part/00001.tar/c")
    ]
    assert [m.caption for m in opened.values()] == [
        *("a clip", "a caption", "of the file .txt", "the caption of c")
    ]
    assert [m.fps for m in opened.values()] == [12, 0, 0, 0]
    shapes = [np.stack(list(m.frames)).shape for m in opened.values()]
    assert shapes == [(9, 32, 32, 3), *[(1, 32, 48, 3)] * 3]
    assert [next(samples[i].open().frames)[0, 0, 0] for i in (1, 2, 3)] == [10, 40, 30]


def test_a_column_names_the_caption(root):
    path = root / "00000.tar"
    (sample,) = [s for s in open_source(f"wds:{path}") if s.uid.endswith("/d")]
    assert sample.open().caption == "of the file .txt"
    samples = open_source(f"wds:{path}", caption_column="caption")
    (sample,) = [s for s in samples if s.uid.endswith("/d")]
    assert sample.open().caption == "of the file .json"


def test_no_temporary_file_remains(root, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(embedded.tempfile, "tempdir", str(folder))
    first, *_ = open_source(f"wds:{root}")
    media = first.open()
    assert len(list(folder.iterdir())) == 1 and len(list(media.frames)) == 9
    assert not list(folder.iterdir())
    media = first.open()
    next(media.frames)
    del media  # before its last frame
    assert not list(folder.iterdir())


def test_sizes_are_estimated_from_the_first_of_a_kind(tmp_path, clip):
    members = [("a.mp4", clip), ("a.txt", "one"), ("p.png", picture(0)), ("p.txt", "")]
    members += [("b.mp4", clip + bytes(len(clip))), ("b.txt", "three")]
    samples = open_source(f"wds:{write_tar(tmp_path / 'x.tar', members)}")
    assert [*shards.extents(samples)] == [
        Extent(32, 32, 9, 3),
        Extent(0, 0, 0, 0),  # it has an empty caption, so it is skipped
        Extent(32, 32, 18, 5),
    ]


def test_the_fingerprint_follows_captions_and_media(root, tmp_path):
    before = fingerprint(open_source(f"wds:{root}"))
    copy = shutil.copytree(root, tmp_path / "copy")
    assert fingerprint(open_source(f"wds:{copy}")) == before
    write_tar(copy / "part" / "00001.tar", [("c.png", picture(31)), ("c.txt", "a")])
    changed = fingerprint(open_source(f"wds:{copy}"))
    write_tar(copy / "part" / "00001.tar", [("c.png", picture(32)), ("c.txt", "a")])
    assert before != changed != fingerprint(open_source(f"wds:{copy}"))


@pytest.mark.slow
def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path, clip):
    text = ("fine", "a caption")
    faults = {
        "no_text": [("mp4", clip)],
        "empty": [("mp4", clip), ("txt", " \n")],
        "bytes": [("mp4", clip), ("txt", b"caf\xe9")],
        "no_media": [("txt", "a caption"), ("npy", "1")],
        "twice": [("mp4", clip), ("txt", "one"), ("mp4", clip), ("txt", "two")],
        "json": [("mp4", clip), ("json", "{broken")],
        "list": [("mp4", clip), ("json", "[1]")],
        "entry": [("mp4", clip), ("json", '{"title": "a"}')],
        "cut": [("mp4", clip[: len(clip) // 2]), ("txt", "half")],
        "fine": [("mp4", clip), ("txt", text[1])],
    }
    members = [(f"{k}.{f}", d) for k, group in faults.items() for f, d in group]
    write_tar(tmp_path / "in" / "x.tar", members)
    card = run(f"wds:{tmp_path / 'in'}", tmp_path / "out", max_bad=1)
    assert card is not None and (card["samples"], card["skipped"]) == (1, 9)
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    found = {entry["file"]: entry["reason"] for entry in map(json.loads, lines)}
    expected = {
        "no_text": "has no caption; expected a member .txt or .json of its key",
        "empty": "has an empty caption",
        "bytes": "its .txt is not UTF-8",
        "no_media": "has no media file, only .txt, .npy",
        "twice": "has .mp4 twice; give each clip its own key",
        "json": "its .json is not JSON",
        "list": "its .json is no object with a caption",
        "entry": "its .json has no text under caption or captions",
        "cut": "is corrupt or not a video",
    }
    assert [*found] == [f"x.tar/{key}" for key in expected]
    for key, reason in expected.items():
        assert found[f"x.tar/{key}"].startswith(reason)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bytes(root, tmp_path):
    def failing(frames):
        if len(frames) == 1 and frames[0, 0, 0, 0] == 40:
            raise KeyboardInterrupt
        return whole(frames)

    whole = encode_video
    run(f"wds:{root}", tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run(f"wds:{root}", tmp_path / "two", encode_video=failing)
    run(f"wds:{root}", tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def _changed(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda p: _cut(p, 700), "x.tar: is cut short"),
        (lambda p: _cut(p, 1024), r"x.tar: is cut short at 1,024 bytes \(no end mark"),
        (lambda p: _changed(p, 1024), "x.tar: is damaged at byte 1,024"),
        (lambda p: p.write_bytes(b"no archive" * 99), "x.tar: is no tar archive"),
        (lambda p: p.write_bytes(gzip.compress(p.read_bytes())), "is compressed"),
        (lambda p: p.write_bytes(bytes(1024)), r"used \(no members of a key\)"),
        (lambda p: p.unlink(), "x.tar: no such file"),
    ],
)
def test_a_bad_archive_is_one_line(tmp_path, damage, text):
    path = write_tar(tmp_path / "x.tar", [("a.png", picture(1)), ("a.txt", "an a")])
    damage(path)
    with pytest.raises(UserError, match=text) as error:
        open_source(f"wds:{path}")
    assert "\n" not in str(error.value)


def test_a_source_without_one_usable_sample_is_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"b/1 has no caption; expected a member .json"):
        open_source(f"wds:{root}", caption_column="title")
    with pytest.raises(UserError, match=r"has no .tar files"):
        (tmp_path / "empty").mkdir()
        open_source(f"wds:{tmp_path / 'empty'}")


def test_options_of_other_sources_are_refused(root):
    with pytest.raises(UserError, match="with --data-dir"):
        open_source(f"wds:{root}", data_dir=root)
    with pytest.raises(UserError, match="with --caption-column"):
        open_source(root, caption_column="text")


def test_patterns_are_those_of_the_shell(root, tmp_path):
    assert [*expanded("a{08..11}b")] == ["a08b", "a09b", "a10b", "a11b"]
    assert [*expanded("{2..0}")] == ["2", "1", "0"]
    assert [*expanded("{x,y}{1..2}")] == ["x1", "x2", "y1", "y2"]
    one, two = root / "00000.tar", root / "part" / "00001.tar"
    assert files_of(f"{root}/{{part/00001,00000}}.tar", ".tar") == [two, one]
    assert files_of(f"{root}/{{*,00000}}.tar", ".tar") == [one]
    assert files_of(str(root), ".tar") == [one, two]
    with pytest.raises(UserError, match=r"0002.tar: no such file"):
        files_of(f"{root}/{{00000,0002}}.tar", ".tar")
