"""Settings that an older version wrote, with today's names and all of today's keys."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from soraxla.core.config import RENAMED, flat, groups_of, plain

# In the metadata of a field: its value in trainings that do not record it, where that
# is not its default.
BEFORE = "before"


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of any age with today's names, see `RENAMED`."""
    made: dict[str, Any] = {}
    for old, value in flat(settings):
        key = RENAMED.get(old, old)
        *groups, last = key.split(".")
        node = made
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return made


def filled(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of any age with those that they lack, as they were in effect.

    A setting that is newer than the version that wrote `values` has the default that
    changes nothing, or the value of its `BEFORE`.

    Args:
        cls: today's dataclass of these settings.
        values: nested settings with today's names.
    """
    made, hints = dict(values), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, value = field.name, field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if name not in made and value is not dataclasses.MISSING:
            made[name] = plain(field.metadata.get(BEFORE, value))
        elif isinstance(made.get(name), Mapping) and (groups := groups_of(hints[name])):
            fit = [group for group in groups if _has(group, made[name])]
            made[name] = filled((fit or groups)[0], made[name])
    return made


def _has(group: Any, values: Mapping[str, Any]) -> bool:
    """Returns whether a dataclass has all settings of a group."""
    return values.keys() <= {field.name for field in dataclasses.fields(group)}
