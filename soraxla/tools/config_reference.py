"""Reference of all settings, `docs/configuration.md`, from the dataclasses.

python -m soraxla.tools.config_reference > docs/configuration.md
"""

import dataclasses
import inspect
import re
import typing
from typing import Any

from soraxla.core.config import groups_of, to_dict, type_name
from soraxla.evals.evaluators import EVALUATORS
from soraxla.training.presets import KINDS, preset_names

_HEAD = """\
# Configuration

After this page you can find any setting of a training run, and set it by its dotted
key:

<!-- runnable -->
```python
import soraxla

cfg = soraxla.config("dit:xs", {{"loop.steps": 1000, "step.lora.rank": 16}})
```

or on the command line:

    soraxla train --config dit:xs --set loop.steps=1000 --set step.lora.rank=16 …

`--config` takes a preset, `NAME[:ARGUMENT]`, or the path of a Python file with a
`get_config`, such as a copy of a preset. The presets are {presets}, the files of
`configs/`. `soraxla train --dry-run` prints settings, parameters, mesh, data, work per
step and memory.

A value is a Python literal, `inf`, or a text. None removes an optional group. Setting a
key of a group that is None creates the group with its defaults.

[training.md](training.md) explains rows, visits, the conditioning mixture and the mesh,
and says which settings may change when a training goes on.
`python -m soraxla.tools.config_reference` writes this page.
"""
_TITLES = {"dit": "Diffusion transformer", "vae": "VAE", "captioner": "Captioner"}


def page() -> str:
    """Returns the text of `docs/configuration.md`."""
    names = [f"`{name}`" for name in preset_names()]
    parts = [_HEAD.format(presets=", ".join(names[:-1]) + " and " + names[-1])]
    for kind, cls in KINDS.items():
        parts.append(f'## {_TITLES[kind]}, `kind` "{kind}"\n')
        parts += _tables(cls, "")
    parts.append("## Evaluators, the entries of `loop.evaluators`\n")
    for name, evaluator in EVALUATORS.items():
        parts += _tables(evaluator, f"loop.evaluators.{name}.")
    return "\n".join(parts)


def attributes(cls: type) -> dict[str, str]:
    """Returns the meaning of each field, from the docstring's `Attributes`."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        lines = text.split("\n\n")[0].splitlines()
        step = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
        name = ""
        for line in lines:
            start = re.match(r"(\w+): (.*)", line[step:])
            if start is not None:
                name, found[start[1]] = start[1], start[2]
            elif name:
                found[name] += " " + line.strip()
    return found


def _tables(cls: Any, where: str) -> list[str]:
    """Returns the table of a group's own settings, then those of the groups in it."""
    hints, meanings = typing.get_type_hints(cls), attributes(cls)
    rows, below = [], []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        hint, key = hints[field.name], f"{where}{field.name}"
        groups = groups_of(hint)
        for group in groups:
            below += _tables(group, f"{key}.")
        if groups and type(None) not in typing.get_args(hint):
            continue
        kind = "group" if groups else type_name(hint).replace("|", "\\|")
        meaning = meanings.get(field.name, "").replace("|", "\\|")
        rows.append(f"| `{key}` | {kind} | {_default(field)} | {meaning} |")
    if not rows:
        return below
    title = where.rstrip(".")
    head = [f"### `{title}`\n"] if title else []
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
    return [*head, "\n".join(table) + "\n", *below]


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = to_dict(value)
    return f"`{value!r}`"


if __name__ == "__main__":
    print(page(), end="")
