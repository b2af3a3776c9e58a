"""Hugging Face datasets on disk as a source: tables, columns, rows and faults."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.decode_ahead import decode_ahead
from data_pipelines.sources import hub_tables
from data_pipelines.sources.files import fingerprint, open_source
from data_pipelines.sources.media import Source
from soraxla.core.errors import UserError
from soraxla.media.write import write_video
from tests.data_pipelines.test_prepare import content, run
from tests.data_pipelines.test_webdataset import picture

MEDIUM = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def schema(types, features=None):
    """Returns a schema as `datasets` writes it, with the types of its features."""
    made = pa.schema(types)
    if features is None:
        return made
    stored = {"info": {"features": features}}
    return made.with_metadata({"huggingface": json.dumps(stored)})


def write(path, columns, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns, schema=made)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
        return
    with pa.ipc.new_stream(path, made) as writer:
        writer.write_table(table, max_chunksize=2)


IMAGES = schema(
    {"sound": MEDIUM, "image": MEDIUM, "prompt": pa.string()},
    {
        "sound": {"_type": "Audio"},
        "image": {"_type": "Image"},
        "prompt": {"dtype": "string", "_type": "Value"},
    },
)


def images(first, count):
    values = range(first, first + count)
    return {
        "sound": [None] * count,
        "image": [{"bytes": picture(v), "path": f"{v}.png"} for v in values],
        "prompt": [f"picture  {v}" for v in values],
    }


@pytest.fixture(params=[".parquet", ".arrow"])
def root(request, tmp_path):
    """A train split of two tables with five rows, and a test split of one row."""
    root, suffix = tmp_path / "hub", request.param
    if suffix == ".parquet":
        names = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
        files = [root / "data" / f"{name}{suffix}" for name in names]
    else:  # of a DatasetDict's save_to_disk
        names = ["train/data-00000-of-00002", "train/data-00001-of-00002"]
        names += ["test/data-00000-of-00001", "train/cache-0123"]
        files = [root / f"{name}{suffix}" for name in names]
    for file, (first, count) in zip(files, [(0, 3), (3, 2), (9, 1)], strict=False):
        write(file, images(first, count), IMAGES)
    return root


def test_rows_are_samples_in_the_order_of_the_tables(root):
    samples = open_source(f"datasets:{root}")
    assert isinstance(samples, Source) and len(samples) == 5
    assert samples[-1].uid.endswith("/1") and samples[2].uid.endswith("/2")
    assert len({sample.uid for sample in samples}) == 5
    for i in (4, 0, 1, 2, 3):  # also back
        media = samples[i].open()
        (frame,) = media.frames
        assert (media.caption, media.fps) == (f"picture {i}", 0)
        assert frame.shape == (32, 48, 3) and frame[0, 0, 0] == i
    (only,) = open_source(f"datasets:{root}/test")
    assert only.open().caption == "picture 9"


def test_a_group_is_read_once(root, monkeypatch):
    reads = []
    read = hub_tables._read_group
    monkeypatch.setattr(
        hub_tables, "_read_group", lambda *of: reads.append(of[:2]) or read(*of)
    )
    samples = open_source(f"datasets:{root}")
    got = decode_ahead(samples, lambda sample: sample.open().frames)
    assert [np.stack(list(items))[0, 0, 0, 0] for _, items in got] == [0, 1, 2, 3, 4]
    assert len(reads) == len(set(reads)) == 3


def test_paths_videos_and_labels(tmp_path):
    frames = [np.full((32, 32, 3), 20 * t, np.uint8) for t in range(9)]
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", frames, 12)
    rows = [
        {"bytes": None, "path": "clips/a.mp4"},
        {"bytes": None, "path": str(tmp_path / "clips" / "a.mp4")},
        {"bytes": (tmp_path / "clips" / "a.mp4").read_bytes(), "path": None},
    ]
    types = {"thumb": MEDIUM, "video": MEDIUM, "label": pa.int64()}
    features = {"label": {"_type": "ClassLabel", "names": ["red_fox", "owl"]}}
    columns = {"thumb": rows, "video": rows, "label": [0, 1, 1]}
    write(tmp_path / "x.parquet", columns, schema(types, features))
    samples = open_source(f"datasets:{tmp_path}")
    opened = [sample.open() for sample in samples]
    assert [m.caption for m in opened] == ["red fox", "owl", "owl"]
    assert [(m.fps, len(list(m.frames))) for m in opened] == [(12, 9)] * 3


def test_a_column_names_the_caption(tmp_path):
    types = {"image": pa.binary(), "text": pa.string(), "alt": pa.list_(pa.string())}
    columns = {"image": [picture(1)], "text": ["a"], "alt": [["one", "two"]]}
    write(tmp_path / "x.parquet", columns, schema(types))
    (sample,) = open_source(f"datasets:{tmp_path}")
    assert sample.open().caption == "a"
    (sample,) = open_source(f"datasets:{tmp_path}", caption_column="alt")
    assert sample.open().caption == "one"


def test_the_fingerprint_follows_the_tables(root):
    before = fingerprint(open_source(f"datasets:{root}"))
    assert before == fingerprint(open_source(f"datasets:{root}/train"))
    assert before != fingerprint(open_source(f"datasets:{root}/test"))
    write(next(root.rglob("*00001-of*")), images(5, 2), IMAGES)
    assert before != fingerprint(open_source(f"datasets:{root}"))


@pytest.mark.slow
def test_an_interrupted_run_and_what_is_skipped(tmp_path):
    broken = {"bytes": picture(1)[:60], "path": "b.png"}
    lost = {"bytes": None, "path": "https://x/a.png"}
    columns = images(1, 6)
    columns["image"][1:5] = [broken, lost, None, {"bytes": None, "path": "no.png"}]
    columns["prompt"][5] = " "
    write(tmp_path / "in" / "x.parquet", columns, IMAGES)
    place = f"datasets:{tmp_path / 'in'}"

    def failing(frames):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path / "out", max_bad=1, encode_video=failing)
    run(place, tmp_path / "out", max_bad=1)
    run(place, tmp_path / "whole", max_bad=1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    lines = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    found = {e["file"]: e["reason"] for e in map(json.loads, lines)}
    assert [*found] == [f"x.parquet/{i}" for i in range(1, 6)]
    parts = (
        "corrupt or truncated",
        "is a URL",
        "image is empty",
        "no such file",
        "emp",
    )
    for reason, part in zip(found.values(), parts, strict=True):
        assert part in reason


def _only(types):
    return lambda root: write(root / "x.parquet", {n: [] for n in types}, schema(types))


TEXT = {"text": pa.string()}


@pytest.mark.parametrize(
    ("make", "column", "text"),
    [
        (lambda r: None, None, "has no tables; expected .parquet or .arrow"),
        (_only(TEXT), None, "no column of images or videos; its columns are text"),
        (
            _only({"image": MEDIUM}),
            None,
            "no usual column of captions of text; .* none",
        ),
        (
            _only({"image": MEDIUM, **TEXT}),
            "alt",
            "no column alt of text; .* are text: ",
        ),
        (_only({"image": MEDIUM, **TEXT}), None, "has no rows"),
        (
            lambda r: (r / "x.parquet").write_bytes(b"PAR1"),
            None,
            "x.parquet: is damaged",
        ),
        (lambda r: (r / "x.arrow").write_bytes(b"ARROW"), None, "x.arrow: is damaged"),
    ],
)
def test_a_bad_folder_is_one_line(tmp_path, make, column, text):
    make(tmp_path)
    with pytest.raises(UserError, match=text) as error:
        open_source(f"datasets:{tmp_path}", caption_column=column)
    assert "\n" not in str(error.value)


def test_splits_and_tables_of_other_columns_are_named(tmp_path):
    write(tmp_path / "val.parquet", images(0, 1), IMAGES)
    assert len(open_source(f"datasets:{tmp_path}")) == 1  # the only one
    write(tmp_path / "train" / "0.parquet", images(0, 1), IMAGES)
    with pytest.raises(UserError, match="no split 'dev', expected one of train, valid"):
        open_source(f"datasets:{tmp_path}/dev")
    types = {"image": MEDIUM, **TEXT}
    write(tmp_path / "train" / "1.parquet", {n: [] for n in types}, schema(types))
    with pytest.raises(
        UserError, match=r"1.parquet: has no column prompt, as 0.parquet"
    ):
        open_source(f"datasets:{tmp_path}")
    with pytest.raises(UserError, match="no such folder"):
        open_source(f"datasets:{tmp_path}/none/none")
