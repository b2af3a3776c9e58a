"""Commands on a full disk: one line with the file, and nothing half written."""

from tests.full_disk import no_file_above
from tests.golden.wan import write_transformer


def test_an_import_that_does_not_fit_the_disk(refusal, tmp_path):
    theirs, out = write_transformer(tmp_path / "theirs"), tmp_path / "out"
    words = ["import", "wan", "--from", theirs, "--text-encoder", "hashed:8"]
    with no_file_above(2000):
        line = refusal(*words, "--out", out)
    assert "safetensors: cannot be written (" in line and "large" in line
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_an_export_that_does_not_fit_the_disk(refusal, checkpoint, tmp_path):
    words = ["export", "wan", "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    with no_file_above(2000):
        line = refusal(*words)
    assert "safetensors: cannot be written (" in line
    assert list(tmp_path.iterdir()) == []
