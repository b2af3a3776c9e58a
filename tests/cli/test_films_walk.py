"""The line of docs/curation.md that leads from films to a generated clip, made tiny."""

import json
import re

import pyarrow.parquet as pq
import pytest

from soraxla.checkpoints.model_folder import save_folder
from soraxla.cli.main import main
from soraxla.media.read import probe
from tests import tiny
from tests.fake_endpoint import Server, said
from tests.test_docs import ROOT, TINY, blocks, commands, shrunk

CAPTION = "a texture that moves to the left"
ENDPOINT = "http://localhost:8000/v1"


def documented() -> list[list[str]]:
    """Returns the words of the commands of the page's line."""
    page = (ROOT / "docs" / "curation.md").read_text(encoding="utf-8")
    (line,) = (b.text for b in blocks(page) if "soraxla generate" in b.text)
    for pattern, small in TINY:
        line = re.sub(pattern, small, line)
    return [words[1:] for words in commands(line) if words[0] == "soraxla"]


def test_the_line_is_one_command_line_of_all_the_steps():
    verbs = [words[0] for words in documented()]
    assert verbs == ["curate", "caption", "prepare", "train", "generate"]
    page = (ROOT / "docs" / "curation.md").read_text(encoding="utf-8")
    (line,) = (b.text for b in blocks(page) if "soraxla generate" in b.text)
    joined = line.replace("\\\n", " ").strip()
    assert "\n" not in joined and joined.count("&&") == len(verbs) - 1


@pytest.mark.slow
def test_the_line_leads_from_a_film_to_a_clip(tmp_path, monkeypatch):
    pytest.importorskip("cv2", reason="cv2 is in the extra curate")
    from tests.data_pipelines.curate.films import film, shot

    monkeypatch.chdir(tmp_path)
    film(tmp_path / "my_films" / "a.mp4", shot(0, 60), shot(1, 60), shot(2, 60) // 7)
    vae = tiny.loaded_vae()
    save_folder(tmp_path / "tiny_vae", vae.params, vae.config)
    server = Server()
    parts = ("subject", "action", "camera", "setting")
    told = dict.fromkeys(parts, "a texture") | {"caption": CAPTION}
    server.answers = [said(json.dumps(told))]
    small = {"prepare": ["--max-tokens", "48"]}
    try:
        for words in documented():
            words = [server.url if word == ENDPOINT else word for word in words]
            assert main([*shrunk(words), *small.get(words[0], [])]) == 0, words
    finally:
        server.shutdown()
        server.server_close()
    index = pq.read_table(tmp_path / "my_dataset" / "index.parquet").to_pylist()
    assert {row["source"] for row in index} == {"a.mp4@0", "a.mp4@62"}  # one is dark
    assert {row["caption"] for row in index} == {CAPTION}
    made = probe(tmp_path / "clip.mp4")
    assert (made.frames, made.height, made.width) == (5, 32, 32)
