"""Sources: lists in three forms, every bad line named, TFDS without TensorFlow."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipelines import SAMPLES
from data_pipelines.sources.files import fingerprint, folder, open_source
from data_pipelines.sources.media import Source, SteeredSource
from soraxla.core.errors import UserError


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.png", "deep/c.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(path)
    return tmp_path / "root"


def jsonl(root, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "captions.jsonl").write_text("\n".join(lines))


def test_the_samples_are_a_source():
    items = open_source(SAMPLES)
    assert isinstance(items, Source) and not isinstance(items, SteeredSource)
    assert len(items) == 10 and items[0].uid == "rabbit_wakes_wide.mp4"
    media = items[0].open()
    assert media.fps == 24 and media.caption == items[0].caption
    assert next(media.frames).shape == (108, 192, 3)


def test_three_forms_of_one_list(root):
    captions = {"a.png": "an A", "b.png": "one, two, “three”", "deep/c.png": "a C"}
    captions["a.png"] = "an\u2028A"  # a line ends here to some, but not in these files
    for name, caption in captions.items():
        (root / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    beside = folder(root)
    rows = "".join(f'{name},"{caption}"\r\n' for name, caption in captions.items())
    (root / "captions.csv").write_bytes(("\ufefffile,caption\r\n" + rows).encode())
    from_csv = folder(root)
    jsonl(root, *({"file": f, "caption": c} for f, c in captions.items()), "")
    from_jsonl = folder(root)
    assert beside == from_csv == from_jsonl
    said = [" ".join(caption.split()) for caption in captions.values()]
    assert [item.uid for item in beside] == list(captions)
    assert [" ".join(item.caption.split()) for item in beside] == said
    assert all(item.file == root / item.uid for item in beside)


def test_the_order_of_a_list_is_kept(root):
    jsonl(root, {"file": "b.png", "caption": "B"}, {"file": "a.png", "caption": "A"})
    assert [item.uid for item in folder(root)] == ["b.png", "a.png"]


A = {"file": "a.png", "caption": "A"}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"file": "a.png"}, 'a.png has no "caption"'),
        ({"file": "a.png", "caption": " \t"}, 'a.png has no "caption", or an empty'),
        ({"file": "a.png", "caption": 3}, "the caption '3', expected text in quotes"),
        ({"caption": "A"}, 'has no "file"'),
        ({"file": "../secret.png", "caption": "A"}, "leaves the folder"),
        ({"file": "deep/../a.png", "caption": "A"}, "leaves the folder"),
        ({"file": "/etc/passwd", "caption": "A"}, "leaves the folder"),
        ({"file": "link.png", "caption": "A"}, "is a link out of the folder"),
        ({"file": "out/secret.png", "caption": "A"}, "is a link out of the folder"),
        ({"file": "b.png", "caption": "B"}, "b.png is listed already, at .*jsonl:1"),
        ({"file": "./b.png", "caption": "B"}, "listed already"),
        ({"file": "same.png", "caption": "B"}, "listed already"),
        ("{broken", "is not JSON"),
        ('["a.png", "A"]', "expected {"),
    ],
)
def test_a_bad_line_is_named_with_its_number(root, row, text):
    Image.new("RGB", (16, 16)).save(root.parent / "secret.png")
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "out").symlink_to(root.parent)
    (root / "same.png").symlink_to("b.png")
    jsonl(root, {"file": "b.png", "caption": "B"}, "", row)
    with pytest.raises(ValueError, match=text) as error:
        folder(root)
    assert str(error.value).startswith(f"{root}/captions.jsonl:3: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv", "a.txt"])
def test_captions_that_are_not_utf8_are_refused(root, name):
    (root / name).write_bytes(b"file,caption\na.png,caf\xe9\n")
    with pytest.raises(ValueError, match=rf"{name}:2: is not UTF-8"):
        folder(root)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name,caption\na.png,A\n", "captions.csv:1: expected the columns"),
        ("", "captions.csv:1: expected the columns"),
        ("file,caption\na.png,A, or B\n", "captions.csv:2: has too many columns"),
        ("file,caption\na.png\n", 'captions.csv:2: a.png has no "caption"'),
        ('file,caption\na.png,"A\n', "captions.csv:2: is not CSV"),
        ("file,caption\n", "lists no media"),
    ],
)
def test_a_bad_csv_is_refused(root, text, error):
    (root / "captions.csv").write_text(text)
    with pytest.raises(ValueError, match=error):
        folder(root)


def test_media_without_a_caption_are_refused(root):
    with pytest.raises(ValueError, match=r"a.png: has no caption; expected .* a.txt"):
        folder(root)
    for name in ("a", "b", "deep/c"):
        (root / f"{name}.txt").write_text("fine" if name != "b" else "\n")
    with pytest.raises(ValueError, match=r"b.txt: b.png has no .caption., or an empty"):
        folder(root)


def test_a_folder_without_media_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        folder(tmp_path / "none")
    with pytest.raises(ValueError, match="lists no media"):
        folder(tmp_path)


def test_the_fingerprint_tells_sources_apart(root):
    jsonl(root, A)
    before = fingerprint(open_source(root))
    assert before == fingerprint(open_source(str(root)))
    jsonl(root, A | {"caption": "another"})
    assert fingerprint(folder(root)) != before
    jsonl(root, A)
    Image.new("RGB", (64, 64), "blue").save(root / "a.png")
    assert fingerprint(folder(root)) != before


@pytest.mark.parametrize("size", [100, 1 << 20])
@pytest.mark.parametrize("place", [0.0, 0.52, 0.99])
def test_other_pixels_under_the_same_name_and_size_are_another_source(
    root, size, place
):
    jsonl(root, A)
    (root / "a.png").write_bytes(bytes(size))
    before = fingerprint(folder(root))
    os.utime(root / "a.png", (0, 0))
    assert fingerprint(folder(root)) == before  # as after a copy
    data = bytearray(size)
    data[int(place * size)] = 1
    (root / "a.png").write_bytes(data)
    assert fingerprint(folder(root)) != before


# --- TFDS -------------------------------------------------------------------------


def png(value, channels=3):
    data = io.BytesIO()
    pixels = np.full((16, 24, channels), value, np.uint8)
    Image.fromarray(pixels.squeeze()).save(data, "PNG")
    data.seek(0)
    return data


def store(root, name, columns, splits):
    """Writes a dataset as TFDS does, in ArrayRecord, without TensorFlow."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            features = tfds.features.FeaturesDict(columns)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: enumerate(rows) for split, rows in splits.items()}

        def _generate_examples(self):
            raise AssertionError("the splits are given above")

    Builder.name = name
    builder = Builder(file_format="array_record", data_dir=root)
    builder.download_and_prepare(file_format="array_record")
    return root / name / "1.0.0"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A dataset of clips with one split, and one of labelled pictures with two."""
    from tensorflow_datasets import features

    root = tmp_path_factory.mktemp("tfds")
    clips = [
        {"video": [png(50 * i + k) for k in range(5)], "caption": text, "fps": 10.0 + i}
        for i, text in enumerate(["", "a  clip\n", "another clip"])
    ]
    columns = {
        "video": features.Sequence(features.Image(shape=(16, 24, 3))),
        "caption": features.Text(),
        "fps": np.float32,
    }
    folder = store(root, "tiny_clips", columns, {"validation": clips})
    # TFDS writes its Video feature only with TensorFlow; its records are those of a
    # sequence of images, so the description is exchanged.
    description = json.loads((folder / "features.json").read_text())
    description["featuresDict"]["features"]["video"] = {
        "pythonClassName": "tensorflow_datasets.core.features.video_feature.Video",
        "video": {
            "shape": {"dimensions": ["-1", "16", "24", "3"]},
            "dtype": "uint8",
            "encodingFormat": "png",
        },
    }
    (folder / "features.json").write_text(json.dumps(description))

    columns = {
        "image": features.Image(shape=(16, 24, 1)),
        "label": features.ClassLabel(names=["red_fox", "owl"]),
    }
    rows = [{"image": png(i, channels=1), "label": i % 2} for i in range(3)]
    more = [{"image": png(9, channels=1), "label": 1}]
    store(root, "tiny_pictures", columns, {"train": rows, "test": more})
    return root


def test_tfds_clips(stored):
    from data_pipelines.sources.tfds import TfdsSource

    clips = TfdsSource("tiny_clips", data_dir=stored)
    assert isinstance(clips, SteeredSource)
    assert [clip.uid for clip in clips] == [
        f"tiny_clips/1.0.0/validation/{i}" for i in range(3)
    ]
    opened = {}
    for clip in clips:
        try:
            media = clip.open()
        except ValueError as error:
            assert str(error) == "has an empty caption"
        else:
            opened[media.caption] = (media.fps, [f[0, 0, 0] for f in media.frames])
    assert opened == {
        "a clip": (11.0, [50, 51, 52, 53, 54]),
        "another clip": (12.0, [100, 101, 102, 103, 104]),
    }
    name, content, length = fingerprint(clips)
    assert (name, length) == ("tiny_clips/1.0.0/validation", 3)
    assert list(content) == ["validation"] and content["validation"][0] > 0
    with pytest.raises(UserError, match=r"no captions; .*, expected one of title"):
        TfdsSource("tiny_clips", data_dir=stored, caption_column="title")


def test_tfds_pictures_take_their_label_as_caption(stored):
    from data_pipelines.sources.tfds import TfdsSource

    pictures = TfdsSource("tiny_pictures", data_dir=stored)
    assert len(pictures) == 3
    for picture in pictures:
        media = picture.open()
        (frame,) = media.frames
        assert media.fps == 0 and frame.shape == (16, 24, 3)
        assert media.caption == ["red fox", "owl"][frame[0, 0, 0] % 2]
    for name in ("tiny_pictures/test", "tiny_pictures:1.0.0/test[:1]"):
        (only,) = TfdsSource(name, data_dir=stored)
        assert next(only.open().frames).max() == 9


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_clips", "tfds:no_such_clips: is not found"),
        ("tiny_pictures/dev", r"no split 'dev', expected one of \['train', 'test'\]"),
        ("", "no name"),
    ],
)
def test_tfds_names_that_do_not_exist(stored, name, text):
    from data_pipelines.sources.tfds import TfdsSource

    with pytest.raises(ValueError, match=text) as error:
        TfdsSource(name, data_dir=stored)
    assert "\n" not in str(error.value)


def test_tfds_is_read_without_tensorflow_and_imported_only_when_asked_for(stored):
    script = f"""
import os, sys
os.environ["TFDS_DATA_DIR"] = {str(stored)!r}
from data_pipelines.sources import files
assert "tensorflow_datasets" not in sys.modules
assert len(files.open_source("tfds:tiny_clips/validation")) == 3
assert "tensorflow" not in sys.modules
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == 0
