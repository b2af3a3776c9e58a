"""Caption lists as spreadsheets, other trainers and people write them."""

import json

import pytest
from PIL import Image

from data_pipelines.sources.files import folder
from soraxla.core.errors import UserError

CSV, LIST = "captions.csv", "captions.jsonl"
A, B = b'{"file":"a.png","caption":"one"}', b'{"file":"b.png","caption":"two"}'
READ = {
    "bom_crlf": (CSV, b"\xef\xbb\xbffile,caption\r\na.png,one\r\nb.png,two\r\n"),
    "quoted_newline": (CSV, b'file,caption\na.png,"one,\n""more"""\nb.png,two\n'),
    "cr_only": (CSV, b"file,caption\ra.png,one\rb.png,two\r"),
    "more_columns": (CSV, b"id,caption,file,fps\n1,one,a.png,25\n2,two,b.png,\n"),
    "semicolons": (CSV, b"file;caption\na.png;one\nb.png;two\n"),
    "tabs": (CSV, b"file\tcaption\r\na.png\tone\r\nb.png\ttwo\r\n"),
    "capitals": (CSV, b"File,Caption\na.png,one\nb.png,two\n"),
    "spaced_header": (CSV, b"file, caption\na.png, one\nb.png, two\n"),
    "quoted_header": (CSV, b'"file";"caption"\n"a.png";"one"\n"b.png";"two"\n'),
    "trailing_commas": (CSV, b"file,caption\na.png,one\nb.png,two\n,\n,,\n"),
    "blank_lines": (LIST, b"\n" + A + b"\n\n  \n" + B + b"\n\n"),
    "bom_jsonl_crlf": (LIST, b"\xef\xbb\xbf" + A + b"\r\n" + B + b"\r\n"),
    "nan_beside": (LIST, A[:-1] + b',"score":NaN}\n' + B[:-1] + b',"x":Infinity}'),
    "line_separator": (LIST, A.replace(b"one", "one\u2028x".encode()) + b"\n" + B),
    "dot_path": (LIST, A.replace(b"a.png", b"./a.png") + b"\n" + B),
}
REFUSED = {
    "utf16": (CSV, "file,caption\r\na.png,one\r\n".encode("utf-16"), "1: is not UTF-8"),
    "cp1252": (CSV, "file,caption\na.png,café\n".encode("cp1252"), "2: is not UTF-8"),
    "unquoted": (
        CSV,
        b"file,caption\na.png,one, two\n",
        "2: has too many columns",
    ),
    "headerless": (CSV, b"a.png,one\nb.png,two\n", "1: expected .* found 'a.png,one'"),
    "open_quote": (CSV, b'file,caption\na.png,"one\nb.png,two\n', "2: is not CSV"),
    "nul": (CSV, b"file,caption\na.png,o\0ne\n", "2: the caption of a.png has a zero"),
    "comma": (LIST, A + b",\n" + B + b",\n", "1: is not JSON .*without commas"),
    "array": (LIST, b"[" + A + b",\n" + B + b"]\n", "1: is not JSON .*one object a li"),
    "twice": (LIST, A[:-1] + b',"caption":"other"}', "1: .*has 'caption' twice"),
    "nan": (LIST, A.replace(b'"one"', b"NaN"), "1: a.png has the caption 'nan', exp"),
    "number": (LIST, A.replace(b'"one"', b"7"), "1: a.png has the caption '7', expect"),
    "list": (LIST, A.replace(b'"one"', b'["one"]'), r"1: a.png has the caption .*one"),
    "backslash": (LIST, A.replace(b"a.p", b".\\\\a.p"), "1: .*exist; write folders wi"),
    "up": (LIST, A.replace(b"a.png", b"sub/../a.png"), "1: sub/../a.png leaves the f"),
    "deep": (
        LIST,
        A[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "1: is not JSON",
    ),
    "huge": (LIST, A[:-1] + b',"n":' + b"9" * 5000 + b"}", "1: is not JSON .Exceeds"),
    "other_list": ("metadata.jsonl", b"{}", r"metadata\.jsonl is no captions\.jsonl"),
    "other_table": ("metadata.csv", b"video,prompt\n", r"metadata\.csv is no captions"),
    "prompts": ("prompt.txt", b"one\ntwo\n", r"prompt\.txt is no captions"),
}


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", READ)
def test_a_list_is_read_as_it_is_meant(root, name):
    file, data = READ[name]
    (root / file).write_bytes(data)
    first, second = folder(root)
    assert [first.file.name, second.file.name] == ["a.png", "b.png"]
    assert first.caption.startswith("one") and second.caption == "two"


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_is_refused_with_its_line(root, name):
    file, data, text = REFUSED[name]
    (root / file).write_bytes(data)
    where = rf"{file}:" if file.startswith("captions") else ".*"
    with pytest.raises(UserError, match=where + text) as error:
        folder(root)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_name_may_compose_its_accents_otherwise(root):
    """macOS keeps é as two characters, and a list has one."""
    (root / "cafe\u0301.png").write_bytes((root / "a.png").read_bytes())
    row = {"file": "caf\u00e9.png", "caption": "one"}
    (root / LIST).write_text(json.dumps(row))
    [item] = folder(root)
    assert item.file.name == "cafe\u0301.png" and item.file.is_file()


def test_the_previews_of_a_training_are_no_media(root):
    run = root / "runs" / "a"
    (run / "previews").mkdir(parents=True)
    (run / "train.json").write_text("{}")
    Image.new("RGB", (16, 16)).save(run / "previews" / "step_1.png")
    for name in ("a", "b"):
        (root / f"{name}.txt").write_text("red")
    assert [item.uid for item in folder(root)] == ["a.png", "b.png"]
