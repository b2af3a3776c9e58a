"""Settings are frozen dataclasses; here they are made from nested mappings and back."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from soraxla.core.errors import UserError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass `cls` of nested mappings: parsed JSON, or `ConfigDict.to_dict()`.

    Lists become tuples, whole numbers become floats where floats are expected.

    Raises:
        UserError: an unknown key (names the nearest), a missing one, or a value of the
            wrong type; the message names the key with its path.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # pyright: ignore
    for key in values:
        if key not in fields:
            raise UserError(f"unknown setting {where + key!r}{nearest(key, fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"setting {where + missing[0]!r} is missing; add it")
    return cls(**{k: _convert(hints[k], v, f"{where}{k}") for k, v in values.items()})


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested dicts and lists, ready for JSON; `build` is the inverse."""
    return _plain(dataclasses.asdict(settings))


def nearest(value: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?`, with what there is; the end of an error message."""
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
    hint = f": did you mean {near[0]!r}?" if near else ":"
    return f"{hint} Known: {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"setting {where!r} is {value!r}, expected a group of keys")
        return build(typing.cast(type, hint), value, where + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        groups = [option for option in args if dataclasses.is_dataclass(option)]
        if groups and isinstance(value, Mapping):
            return _convert(groups[0], value, where)  # its faults are the ones to name
        for option in args:
            try:
                return _convert(option, value, where)
            except ValueError:
                continue
        raise _wrong(where, value, hint)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(
                f"setting {where!r} is {value!r}, expected one of "
                f"{', '.join(map(repr, args))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, hint)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise _wrong(where, value, hint)
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in pairs)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, value, hint)
    return value


def _wrong(where: str, value: Any, hint: Any) -> UserError:
    kind = hint.__name__ if isinstance(hint, type) else str(hint)
    kind = kind.replace("typing.", "")
    return UserError(f"setting {where!r} is {value!r}, expected {kind}")
