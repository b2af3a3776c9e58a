"""Names of the hub become folders; paths stay paths."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from soraxla.cli.main import main
from soraxla.files.hub import local
from soraxla.models.text import full_name, load_text_encoder

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


def test_a_text_encoder_is_downloaded_without_the_rest_of_its_model(
    tmp_path, monkeypatch
):
    asked = []

    def download(repository, *, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local("hf:org/wan/text_encoder") == tmp_path / "text_encoder"
    repository, patterns = asked.pop()
    assert repository == "org/wan"
    assert {"text_encoder/*.safetensors", "tokenizer/*.json"} <= set(patterns)
    assert all(p.startswith(("text_encoder/", "tokenizer/")) for p in patterns)

    name = "umt5:hf:org/wan/text_encoder"
    assert full_name(name) == name and not asked
    # Nothing was downloaded; the folder is the one to load.
    with pytest.raises(ValueError, match=f"{tmp_path}/text_encoder"):
        load_text_encoder(name)


def test_what_cannot_be_downloaded_is_one_line(monkeypatch):
    def download(*_, **__):
        raise OSError("no route to host\nand a page of it")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"hf:org/wan: cannot .*no route") as error:
        local("hf:org/wan")
    assert "\n" not in str(error.value)
