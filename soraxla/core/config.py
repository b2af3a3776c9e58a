"""Settings: frozen dataclasses, nested mappings of them, and dotted keys into those."""

import ast
import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

T = TypeVar("T")

# In the metadata of a field that is a mapping: the dataclass of each key it may have.
CLASSES = "classes"
# In the metadata of a field that older files lack, whose hashes must stay.
NEW = "new"

# Settings that were renamed: the dotted key in older training folders and the new one.
RENAMED: dict[str, str] = {
    "loop.preview_every": "loop.evaluators.preview.every",
    "step.kl_weight": "step.losses.kl.weight",
}


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Returns the dataclass `cls` of nested mappings: JSON, or `ConfigDict.to_dict()`.

    Lists become tuples, whole numbers become floats where floats are expected.

    Raises:
        UserError: an unknown key (names the nearest), a missing one, or a value of the
            wrong type; the message names the key with its path.
    """
    hints = typing.get_type_hints(cls)
    fields = _fields(cls)
    if unknown := [key for key in values if key not in fields]:
        raise _unknown(unknown[0], cls, where)
    missing = [n for n, f in fields.items() if n not in values and _required(f)]
    if missing:
        raise UserError(f"setting {where + missing[0]!r} is missing; add it")
    return cls(**{k: _convert(hints[k], v, f"{where}{k}") for k, v in values.items()})


def to_dict(settings: Any) -> dict[str, Any]:
    """Returns nested dicts and lists, ready for JSON; `build` is the inverse.

    They leave out a field that is marked `NEW` and has its default.
    """
    made = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if NEW not in field.metadata or value != field.default:
            nested = dataclasses.is_dataclass(value)
            made[field.name] = to_dict(value) if nested else plain(value)
    return made


def to_config_dict(kind: str, settings: Any) -> "ConfigDict":
    """Returns the ConfigDict of a whole training, as `get_config` hands it out.

    It is locked: a wrong key is refused where it is set, see `lock`. The `kind` "dit"
    has a `DiTTrainingConfig` as its settings, and "vae" a `VAETrainingConfig`.
    """
    from ml_collections import ConfigDict

    config = ConfigDict({"kind": kind, **plain(dataclasses.asdict(settings))})
    lock(config, type(settings))
    return config


def lock(config: "ConfigDict", hint: Any) -> None:
    """Locks the groups of `config` that have all settings of their dataclass.

    A mapping stays open, for its keys are free, and so does a group of a fine-tuning
    that leaves settings to the model's folder.

    Args:
        hint: the dataclass of `config`.
    """
    groups = groups_of(hint)
    whole = bool(groups) and _fields(groups[0]).keys() <= set(config.keys())
    config.lock() if whole else config.unlock()
    hints = typing.get_type_hints(groups[0]) if groups else {}
    for name, child in config.items():
        if isinstance(child, type(config)):
            lock(child, hints.get(name, Any))


def nearest(value: str, known: Iterable[str]) -> str:
    """Returns `: did you mean 'x'? Known: …`, the end of an error message."""
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.0)
    hint = f": did you mean {near[0]!r}?" if near else ":"
    return f"{hint} Known: {', '.join(known)}"


def flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested settings; an empty group is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{where}{key}.")
        else:
            yield where + key, value


# --- Dotted keys ------------------------------------------------------------------


def set_key(config: "ConfigDict", cls: type, key: str, value: Any) -> None:
    """Sets one setting of `config` in place, checked against the dataclass `cls`.

    A group that is None is made from its dataclass's defaults when a key in it is set.
    A mapping sets each of its keys; None removes an optional group or an entry.

    Args:
        key: dotted, such as "step.optim.learning_rate" or "loop.evaluators.loss.every".

    Raises:
        UserError: an unknown key (names the nearest leaf), or a value of a wrong type.
    """
    for path, each in list(_checked(cls, key, value)):
        _put(config, cls, path, each)
    if config.is_locked:
        lock(config, cls)


def set_from_text(config: "ConfigDict", cls: type, assignment: str) -> None:
    """Sets `KEY=VALUE`, see `set_key`; the value is a Python literal, `inf` or a text.

    Raises:
        UserError: there is no `=`; see `set_key`.
    """
    set_key(config, cls, *parted(assignment))


def parted(assignment: str) -> tuple[str, Any]:
    """Returns the key and the value of `KEY=VALUE`, see `set_from_text`.

    Raises:
        UserError: there is no `=`.
    """
    key, separator, text = assignment.partition("=")
    if not separator:
        raise UserError(f"{assignment}: expected KEY=VALUE, such as loop.steps=1000")
    return key.strip(), _value_of(text.strip())


def leaves(cls: type, where: str = "") -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """Yields (dotted key, type, field) of every setting that is no group."""
    hints = typing.get_type_hints(cls)
    for name, field in _fields(cls).items():
        groups = [(name, group) for group in groups_of(hints[name])]
        entries = field.metadata.get(CLASSES, {}).items()
        groups += [(f"{name}.{entry}", group) for entry, group in entries]
        if groups:
            for place, group in groups:
                yield from leaves(group, f"{where}{place}.")
        else:
            yield where + name, hints[name], field


def _value_of(text: str) -> Any:
    if text.lstrip("+-") in ("inf", "infinity"):
        return float(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def likely_key(key: str, cls: type) -> str | None:
    """Returns the key most like another, or like its last name; None if none is."""

    def likeness(leaf: str) -> float:
        pairs = (key, leaf), (key.rpartition(".")[2], leaf.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    near = max([*_fields(cls), *(leaf for leaf, *_ in leaves(cls))], key=likeness)
    return near if likeness(near) >= 1 else None


def _unknown(key: str, cls: type, where: str = "") -> UserError:
    if (whole := where + key) in RENAMED:
        return UserError(f"setting {whole!r} is called {RENAMED[whole]!r} now")
    near, hint = likely_key(key, cls), "; docs/configuration.md lists all"
    hint = f": did you mean {where + near!r}?" if near else hint
    return UserError(f"unknown setting {whole!r}{hint}")


def _checked(cls: type, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the settings that `key = value` sets, their types checked."""
    hint: Any = cls
    for name in key.split("."):
        hint = _hint_of(hint, name, key, cls)
    if isinstance(value, Mapping) and value and _holds_keys(hint):
        for name, each in value.items():
            yield from _checked(cls, f"{key}.{name}", each)
    else:
        yield key, _convert(hint, value, key) if value != {} else {}


def _hint_of(hint: Any, name: str, key: str, cls: type) -> Any:
    """Returns the type of what `name` means in a group of the type `hint`.

    That of a mapping with a table of classes is the table.
    """
    for option in _options(hint):
        if dataclasses.is_dataclass(option) and name in (fields := _fields(option)):
            table = fields[name].metadata.get(CLASSES)
            return typing.get_type_hints(option)[name] if table is None else table
        if isinstance(option, Mapping):
            if name not in option:
                raise UserError(f"unknown setting {key!r}{nearest(name, option)}")
            return option[name] | None
        if _is_mapping(option):
            return (*typing.get_args(option), Any, Any)[1]
        if option is Any:
            return Any
    raise _unknown(key, cls)


def _put(config: "ConfigDict", cls: type, key: str, value: Any) -> None:
    """Sets a checked value; the groups on the way to it are made."""
    *groups, last = key.split(".")
    node, hint = config, cls
    for name in groups:
        parent, hint = hint, _hint_of(hint, name, key, cls)
        node = _entered(node, name, parent, hint)
        if not hasattr(node, "items"):
            raise _unknown(key, cls)
    if value == {}:
        _entered(node, last, hint, _hint_of(hint, last, key, cls))
    else:
        _assign(node, last, value)


def _entered(node: Any, name: str, parent: Any, hint: Any) -> Any:
    """Returns the group `name` of `node`, made of its defaults where it is None.

    A group that is not there at all starts empty: `build` adds its defaults, or a model
    folder says the rest.
    """
    if node.get(name) is None:
        made: Any = {}
        if name in node and groups_of(hint):
            made = _defaults(groups_of(hint)[0])
        elif name not in node and not groups_of(hint):
            made = _defaults(parent).get(name, {})  # a mapping's first entries
        _assign(node, name, made)
    return node[name]


def _defaults(hint: Any) -> dict[str, Any]:
    """Returns the defaults of a dataclass, without the settings that have none."""
    made = {}
    for group in groups_of(hint):
        for name, field in _fields(group).items():
            if field.default is not dataclasses.MISSING:
                made[name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                made[name] = field.default_factory()
    return made


def _assign(node: "ConfigDict", name: str, value: Any) -> None:
    with contextlib.ExitStack() as stack:
        # The dataclass has said that the type is right.
        stack.enter_context(node.ignore_type())
        stack.enter_context(node.unlocked())
        node[name] = plain(value)


# --- Types ------------------------------------------------------------------------


def _fields(cls: Any) -> dict[str, dataclasses.Field]:
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def groups_of(hint: Any) -> list[Any]:
    return [option for option in _options(hint) if dataclasses.is_dataclass(option)]


def _is_mapping(hint: Any) -> bool:
    if isinstance(hint, Mapping):  # a table of classes
        return True
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _holds_keys(hint: Any) -> bool:
    return bool(groups_of(hint)) or any(map(_is_mapping, _options(hint)))


def plain(value: Any) -> Any:
    """Returns a value as JSON has it: tuples as lists, dataclasses as dicts."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"setting {where!r} is {value!r}, expected a group of keys")
        return build(typing.cast(type, hint), value, where + ".")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        groups = groups_of(hint)
        if groups and isinstance(value, Mapping):
            fit = [group for group in groups if value.keys() <= _fields(group).keys()]
            # The first one's faults are the ones to name.
            return _convert((fit or groups)[0], value, where)
        for option in args:
            try:
                return _convert(option, value, where)
            except UserError:
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
        return _tuple(args, value, where, hint)
    if origin is list:
        return list(_tuple((args[0], ...), value, where, hint))
    if _is_mapping(hint):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, hint)
        each = (*args, Any, Any)[1]
        return {k: _convert(each, v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, value, hint)
    if hint is float and math.isnan(value):
        raise UserError(f"setting {where!r} is nan, expected a number")
    return value


def _tuple(args: tuple[Any, ...], value: Any, where: str, hint: Any) -> tuple:
    if not isinstance(value, list | tuple):
        raise _wrong(where, value, hint)
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise _wrong(where, value, hint)
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in pairs)


def _wrong(where: str, value: Any, hint: Any) -> UserError:
    return UserError(f"setting {where!r} is {value!r}, expected {type_name(hint)}")


def type_name(hint: Any) -> str:
    """Returns a type as a user reads it, such as `float | None`."""
    args = typing.get_args(hint)
    if len(options := _options(hint)) > 1:
        return " | ".join(map(type_name, options))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, args))
    if hint is type(None):
        return "None"
    if isinstance(hint, Mapping):
        return "a group of keys"
    kind = hint.__name__ if isinstance(hint, type) else str(hint)
    if not args:
        return kind.replace("typing.", "")
    origin: Any = typing.get_origin(hint)
    inner = ("..." if arg is Ellipsis else type_name(arg) for arg in args)
    return f"{origin.__name__}[{', '.join(inner)}]"
