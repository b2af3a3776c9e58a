"""What a text encoder is, and how one is found by name. Loads JAX only with weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.models.text.hashed import HashedTextEncoder


@runtime_checkable  # what the checks of types in tests need
class TextEncoder(Protocol):
    """Turns prompts into token embeddings; every text gives at least one token."""

    @property
    def name(self) -> str:
        """What `load_text_encoder` makes an equal encoder from."""
        ...

    @property
    def width(self) -> int:
        """E, the features of a token."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[Float[np.ndarray, "m e"]]:
        """One (M, E) float32 array a text; M is the text's own."""
        ...


def _hashed(argument: str) -> TextEncoder:
    if not argument:
        return HashedTextEncoder()
    if not argument.isdecimal():
        raise UserError(
            f"the hashed encoder's width must be a whole number, got {argument!r}:"
            " write hashed:512 for 512 features"
        )
    return HashedTextEncoder(width=int(argument))


def _minilm(argument: str) -> TextEncoder:
    from soraxla.models.text.pretrained import load_minilm

    if argument:
        raise UserError(
            f"the minilm encoder takes no argument, got {argument!r}: write minilm, or "
            "bert:PATH for other weights"
        )
    return load_minilm()


def _pretrained(kind: str) -> Callable[[str], TextEncoder]:
    def load(argument: str) -> TextEncoder:
        from soraxla.models.text.pretrained import load_pretrained

        return load_pretrained(kind, argument)

    return load


_FOLDERS = ("umt5", "t5", "clip", "bert")
_ENCODERS: dict[str, Callable[[str], TextEncoder]] = {
    "hashed": _hashed,
    "minilm": _minilm,
    **{kind: _pretrained(kind) for kind in _FOLDERS},
}


def full_name(name: str) -> str:
    """The name with its folder's full path, for a record that is read elsewhere.

    Raises:
        UserError: an encoder that is not known, or no folder of one.
    """
    kind, argument = _parts(name)
    if kind not in _FOLDERS:
        return name
    if not argument:
        raise UserError(f"text encoder {name!r} names no folder: write {kind}:PATH")
    folder = Path(argument).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: holds no config.json of a {kind} text encoder")
    return f"{kind}:{folder.resolve()}"


def load_text_encoder(name: str) -> TextEncoder:
    """The encoder called `name`, or `name:argument`.

    `hashed` is the encoder that needs no download, 256 features wide; `hashed:512`
    is 512 wide. `umt5:PATH`, `t5:PATH`, `clip:PATH` and `bert:PATH` are a local folder
    of pretrained weights, `minilm` those of an installed package.

    Raises:
        UserError: a name or an argument it does not know; for a folder, see
            `pretrained.load_pretrained`.
    """
    kind, argument = _parts(name)
    return _ENCODERS[kind](argument)


def _parts(name: str) -> tuple[str, str]:
    kind, _, argument = name.partition(":")
    if kind not in _ENCODERS:
        raise UserError(f"unknown text encoder {name!r}{nearest(kind, _ENCODERS)}")
    return kind, argument
