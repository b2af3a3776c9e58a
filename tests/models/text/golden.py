"""The fixtures of `tests/golden` as folders that the loaders read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.golden.seeded import tensors

GOLDEN = Path(__file__).parents[2] / "golden"
# Tokenizers of a model's kind, with more words than the tiny models' parity needs.
TOKENIZERS = {
    "umt5": "umt5_json",
    "t5": "t5_spiece",
    "clip": "clip_json",
    "bert": "bert_json",
}
FIXTURES = {"umt5": "t5", "t5": "t5", "clip": "clip", "bert": "bert"}


def read_case(file: str, case: str) -> dict[str, Any]:
    """The arrays `case/…` of `text_<file>.npz`."""
    with np.load(GOLDEN / f"text_{file}.npz") as arrays:
        names = [name for name in arrays if name.startswith(f"{case}/")]
        return {name.removeprefix(f"{case}/"): arrays[name] for name in names}


def weights(case: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of the reference model, by its files' names."""
    return tensors(json.loads(str(case["shapes"])), int(case["seed"]))


def write_model(folder: Path, case: dict[str, Any]) -> Path:
    """The folder that the reference model was loaded from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(str(case["config"]), encoding="utf-8")
    save_file(weights(case), folder / "model.safetensors")
    return folder


def write_tokenizer(folder: Path, case: str) -> Path:
    """A small tokenizer of `text_tokens.npz`, for 200 odd texts or as any."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = read_case("tokens", case)
    (folder / str(tokens["file"])).write_bytes(tokens["data"].tobytes())
    return folder


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |a − b| / max |b|."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def write_encoder(folder: Path, kind: str, vocab: int = 900) -> Path:
    """A whole folder, its vocabulary wide enough for its tokenizer."""
    case = read_case(FIXTURES[kind], kind)
    tables = ("shared.weight", "token_embedding.weight", "word_embeddings.weight")
    shapes = json.loads(str(case["shapes"]))
    config = json.loads(str(case["config"]))
    for name, shape in shapes.items():
        if name.endswith(tables):
            shape[0] = vocab
    config.get("text_config", config)["vocab_size"] = vocab
    case |= {"shapes": json.dumps(shapes), "config": json.dumps(config)}
    return write_tokenizer(write_model(folder, case), TOKENIZERS[kind])


def random_images(sizes: np.ndarray, seed: int) -> list[np.ndarray]:
    """The pictures that the reference was shown, of (H, W) each."""
    return [
        np.random.RandomState(seed + i).randint(0, 256, (h, w, 3)).astype(np.uint8)
        for i, (h, w) in enumerate(sizes)
    ]
