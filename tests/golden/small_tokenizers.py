"""Small tokenizers of every form, trained here, and the ids they give odd texts.

Part of `make_text.py`: it runs with the peers of `peers.txt`.
"""

import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
import transformers as hf
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from tests.golden.odd_texts import odd_texts

CORPUS = """
the quick brown fox jumps over the lazy dog
a ginger cat sits on the red mat and yawns at the rabbit
two astronauts are walking through a meadow of yellow flowers in slow motion
the camera pans over a snowy mountain at dawn, cinematic lighting, 4k
don't you think they're waiting? she'd say we've seen it; I'm sure he'll come
numbers 0 1 2 3 4 5 6 7 8 9 10 100 2026 and signs ! ? . , ; : ( ) - ' " / & %
une café naïve, über die straße, el niño, să mergem
быстрая коричневая лиса прыгает через ленивую собаку
一只猫坐在红色的垫子上。灰色の兎が草の上で欠伸をする
"""


def spiece(**settings: Any) -> bytes:
    """A small unigram model with the special ids of T5."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.strip().splitlines() * 5),
        model_writer=out,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return out.getvalue()


def clip_tokenizer() -> Any:
    """Byte-level BPE whose words end in `</w>`.

    Learnt here, as the library's trainer breaks ties differently every time.
    """
    backend = hf.CLIPTokenizer().backend_tokenizer
    text = backend.normalizer.normalize_str(CORPUS)
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    for _ in range(300):
        pairs = Counter(pair for word in split for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        split = [merge(word, best) for word in split]
        merges.append(best)
    # Every byte is a token inside a word and at its end, so none is unknown.
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    names += ["".join(pair) for pair in merges]
    names = [*dict.fromkeys(names), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    return hf.CLIPTokenizer(vocab=vocab, merges=merges)


def merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    """The word with every such pair made one piece, from the left."""
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def bert_tokenizer() -> Any:
    """WordPiece over the letters, the words and the ends of words of the corpus."""
    backend = hf.BertTokenizer().backend_tokenizer
    text = backend.normalizer.normalize_str(CORPUS)
    words = {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)}
    letters = set("".join(words))
    pieces = words | letters | {f"##{letter}" for letter in letters}
    pieces |= {f"##{word[-n:]}" for word in words for n in (2, 3) if len(word) > n}
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(pieces)]
    return hf.BertTokenizer(vocab={name: i for i, name in enumerate(names)})


def token_case(
    tokenizer: Any, file: str, data: bytes, limit: int, clean: Callable[[str], str]
) -> dict[str, Any]:
    """A tokenizer's file, and its ids of the odd texts, end to end.

    Of a `spiece.model` there follow the ids that sentencepiece itself gives.
    """
    ids = [
        tokenizer(clean(text), truncation=True, max_length=limit)["input_ids"]
        for text in odd_texts()
    ]
    if file == "spiece.model":  # transformers converts it; this is the thing itself
        own = sentencepiece.SentencePieceProcessor(model_proto=data)
        ids += [[*own.encode(clean(t))[: limit - 1], 1] for t in odd_texts()]
    return {
        "file": file,
        "data": np.frombuffer(data, np.uint8),
        "limit": limit,
        "lengths": np.array([len(row) for row in ids]),
        "ids": np.concatenate(ids),
    }


def saved_json(tokenizer: Any) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        text = (Path(temporary) / "tokenizer.json").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), ensure_ascii=False).encode()


def from_spiece(data: bytes) -> Any:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "spiece.model"
        path.write_bytes(data)
        return hf.T5Tokenizer.from_pretrained(temporary)


def token_cases() -> dict[str, dict[str, Any]]:
    def same(text: str) -> str:
        return text

    plain = spiece(vocab_size=300, normalization_rule_name="nmt_nfkc")
    many = spiece(vocab_size=400, normalization_rule_name="identity")
    t5, umt5 = from_spiece(plain), from_spiece(many)
    clip, bert = clip_tokenizer(), bert_tokenizer()
    return {
        "t5_spiece": token_case(t5, "spiece.model", plain, 512, same),
        "umt5_json": token_case(
            umt5, "tokenizer.json", saved_json(umt5), 512, prompt_clean
        ),
        "umt5_spiece": token_case(umt5, "spiece.model", many, 512, prompt_clean),
        "clip_json": token_case(
            clip, "tokenizer.json", saved_json(clip), 77, prompt_clean
        ),
        "bert_json": token_case(bert, "tokenizer.json", saved_json(bert), 128, same),
    }
