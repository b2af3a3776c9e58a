"""The interface of a text encoder, and encoders by name. Only weights import JAX."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from soraxla.core.config import nearest
from soraxla.core.errors import UserError
from soraxla.files.hub import is_remote
from soraxla.models.text.hashed import HashedTextEncoder


@runtime_checkable  # for type checks in tests
class TextEncoder(Protocol):
    """A function from prompts to token embeddings, at least one token per text."""

    @property
    def name(self) -> str:
        """The name from which `load_text_encoder` makes an equal encoder."""
        ...

    @property
    def width(self) -> int:
        """E, the features of a token."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[Float[np.ndarray, "m e"]]:
        """Returns one (M, E) float32 array per text; M may differ between texts."""
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
    """Returns the name with its folder's full path, for records read elsewhere.

    Raises:
        UserError: the encoder is unknown, or its folder is missing.
    """
    kind, argument = _parts(name)
    if kind not in _FOLDERS:
        return name
    if not argument:
        raise UserError(f"text encoder {name!r} names no folder: write {kind}:PATH")
    if is_remote(argument):
        return name
    folder = Path(argument).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: no config.json of a {kind} text encoder; check the path"
        )
    return f"{kind}:{folder.resolve()}"


def load_text_encoder(name: str) -> TextEncoder:
    """Loads the encoder `name`, or `name:argument`.

    `hashed` is the encoder that needs no download, 256 features wide; `hashed:512` is
    512 wide. `umt5:PATH`, `t5:PATH`, `clip:PATH` and `bert:PATH` name a local folder of
    pretrained weights, `minilm` those of an installed package. PATH may be
    hf:ORG/NAME, or hf:ORG/NAME/FOLDER for a part of a model.

    Raises:
        UserError: the name or the argument is unknown; for a folder, as
            `pretrained.load_pretrained`.
    """
    kind, argument = _parts(name)
    return _ENCODERS[kind](argument)


def _parts(name: str) -> tuple[str, str]:
    kind, _, argument = name.partition(":")
    if kind not in _ENCODERS:
        raise UserError(f"unknown text encoder {name!r}{nearest(kind, _ENCODERS)}")
    return kind, argument
