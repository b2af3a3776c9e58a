"""Names of the hub become folders; paths stay paths."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from soraxla.cli.main import main
from soraxla.files.hub import local

WAN = Path(__file__).parents[1] / "golden" / "wan21"


def test_a_path_is_itself():
    assert local("runs/dit") == Path("runs/dit")
    assert local(Path("hf/runs")) == Path("hf/runs")


def test_a_name_is_downloaded_and_imported(tmp_path, monkeypatch):
    def download(repository, *, allow_patterns):
        assert repository == "org/wan"
        assert "*.safetensors" in allow_patterns and "*.bin" not in allow_patterns
        return str(shutil.copytree(WAN, tmp_path / "cache"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    out = tmp_path / "wan"
    command = ["import", "wan", "--from", "hf:org/wan", "--out", str(out)]
    assert main([*command, "--text-encoder", "hashed:8"]) == 0
    assert (out / "dit" / "config.json").is_file()


def test_what_cannot_be_downloaded_is_one_line(monkeypatch):
    def download(*_, **__):
        raise OSError("no route to host\nand a page of it")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"hf:org/wan: cannot .*no route") as error:
        local("hf:org/wan")
    assert "\n" not in str(error.value)
