"""A broken film in a VAE's training: one line about it, and the training goes on."""

import json

import pytest

from soraxla.cli.main import main
from tests.media.cases.films import film, noisy


@pytest.mark.slow
def test_a_training_goes_on_without_a_broken_film(tmp_path, capsys):
    media, run = tmp_path / "media", tmp_path / "run"
    media.mkdir()
    front = {"movflags": "+faststart"}
    for n in range(4):
        path = media / f"{n}.mp4"
        film(path, range(17), base=25, draw=noisy(), muxer=front)
    whole = (media / "1.mp4").read_bytes()
    (media / "1.mp4").write_bytes(whole[: len(whole) * 7 // 10])
    (media / "2.mp4").write_bytes(b"no film")
    shape = {"frames": 5, "height": 32, "width": 32, "batch": 4}
    words = ["train", "--config", "vae:debug", "--data", media, "--workdir", run]
    tiny = ("base_width=4", "multipliers=(1, 1, 1, 1)", "res_blocks=1")
    for setting in (
        *(f"step.model.{width}" for width in tiny),
        f"windows.shapes=({shape},)",
        "windows.max_bad=0.5",
    ):
        words += ["--set", setting]
    for steps in (2, 3):  # resumed, it meets the film again
        assert main([*map(str, words), "--set", f"loop.steps={steps}"]) == 0
        out = capsys.readouterr().out
        assert f"{media}: 4 files, of which 1 cannot be used" in out
        assert "2 files could not be used and were left out; " in out
    rows = [json.loads(row) for row in (run / "skipped.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [str(media / f"{n}.mp4") for n in (2, 1)]
    assert "truncated" in rows[1]["reason"]
