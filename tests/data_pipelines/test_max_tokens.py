"""A clip of the size that Wan was trained on stays whole from media to rows."""

import argparse
import inspect
import json

import numpy as np

import soraxla
from data_pipelines import transforms
from data_pipelines.prepare import prepare
from soraxla.cli import prepare as command
from soraxla.cli.main import main
from soraxla.media.write import write_video
from soraxla.training.presets import load_preset
from tests.generation import fake


def test_81_frames_of_832x480_stay_whole_on_the_documented_path():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    default = parser.parse_args(["--source", "a", "--out", "b"]).max_tokens
    for function in (prepare, soraxla.prepare):
        parameters = inspect.signature(function).parameters
        assert parameters["max_tokens"].default == default
    box = transforms.crop_box(480, 832)
    assert transforms.piece_frames(box, default) >= 81
    for weights in ("lora", "full"):
        config = load_preset(f"finetune_wan:{weights}").to_dict()
        row_length = config["pack"]["row_length"]
        assert transforms.piece_frames(box, row_length) >= 81
        assert row_length >= default  # or rows cut what `prepare` kept


def test_prepare_says_how_many_captioned_clips_it_cut(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("soraxla.tools.prepare.encode_clips", fake.encode_clips)
    folder, lines = tmp_path / "media", []
    folder.mkdir()
    for name, frames in (("long.webp", 11), ("short.webp", 5)):
        grey = [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(frames)]
        write_video(folder / name, grey, 10)
        lines.append(json.dumps({"file": name, "caption": "grey"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    words = ["prepare", "--source", str(folder), "--no-conditions"]
    for most, said in (("8", True), ("12", False)):
        out = tmp_path / most
        assert main([*words, "--out", str(out), "--max-tokens", most]) == 0
        assert ("1 captioned clips" in capsys.readouterr().out) == said
