"""The record of a training, `train.json`: what a resume checks, keeps and changes."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from soraxla.checkpoints.training_folder import (
    SETTINGS,
    is_training_folder,
    read_settings,
)
from soraxla.checkpoints.usage import RECORDED
from soraxla.core.errors import UserError
from soraxla.core.older_settings import filled
from soraxla.files.atomic_file import atomic_file
from soraxla.packing.schedule import SCHEDULE_VERSION
from soraxla.parallel.multihost import everywhere, is_main
from soraxla.training.data_record import DATA_KEYS, other_data

# The settings that may change when a training goes on; a group means all of its keys.
# "free" changes no result: the length of the training, its devices, its memory, and
# the share of unusable media that stops it.
# "change" needs `--change`, keeps the optimizer's state, and is recorded.
# All other settings stay as they are.
RESUME: dict[str, Literal["free", "change"]] = {
    "loop": "free",
    "mesh": "free",
    "accumulate": "free",
    "step.model.remat": "free",
    "step.losses.perceptual.file": "free",  # its weights are compared
    "windows.max_bad": "free",
    "step.optim.learning_rate": "change",
    "step.optim.muon_learning_rate": "change",
    "step.optim.warmup_steps": "change",
    "step.optim.decay_steps": "change",
    "step.optim.weight_decay": "change",
    "step.optim.clip_norm": "change",
}
# Parts of a record that follow from the settings, the data or the base model.
_DERIVED = (
    *("kind", "schedule", "schedule_constants", *DATA_KEYS, "init", "changes"),
    "features",
    *("mean_row_weight", "text_encoder", "vae_sha256", *RECORDED),
)


def resumed(
    config: Mapping[str, Any], workdir: Path | None, change: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the configuration of a command for a folder that may exist.

    Recorded changes hold on: a command that states a changed setting as it was at the
    beginning gets its newest value. The settings of `change` replace all others.

    Args:
        change: dotted keys of `RESUME` and their new values.

    Raises:
        UserError: a key of `change` may not change, or there is no training to go on
            with; the folder is one of another schedule or kind.
    """
    for key in change:
        if RESUME.get(key) != "change":
            known = ", ".join(k for k, how in RESUME.items() if how == "change")
            raise UserError(
                f"--change {key}: may not change in a training; only {known} may. For "
                "other settings, start a new one: --init FOLDER --workdir NEW"
            )
    made = _copy(config)
    if workdir is None or not is_training_folder(workdir):
        if change:
            raise UserError(
                f"--change {next(iter(change))}: {workdir} holds no training that "
                "could go on; use --set"
            )
        return made
    record = read_settings(workdir)
    _check_kind(workdir, record, config.get("kind"))
    if record.get("schedule") != SCHEDULE_VERSION:
        raise _other_schedule(workdir, record)
    first: dict[str, Any] = {}
    for entry in record.get("changes", ()):
        first.setdefault(entry["key"], entry["old"])
    for key, old in first.items():
        if _get(made, key, default=old) == old:
            _set(made, key, _get(record, key))
    for key, value in change.items():
        old = _get(record, key)
        if key == "step.optim.muon_learning_rate" and (old is None) != (value is None):
            raise UserError(
                f"--change {key}={value}: was {old}, and Muon's state cannot be added "
                f"or left out; start a new training: --init {workdir} --workdir NEW"
            )
        _set(made, key, value)
    return made


def recorded_init(workdir: Path | None) -> Path | None:
    """Returns the folder of the model that a training began from, if it has one."""
    if workdir is None or not is_training_folder(workdir):
        return None
    init = read_settings(workdir).get("init")
    folder = init.get("folder") if isinstance(init, Mapping) else None
    return None if folder is None else Path(folder)


def check_record(
    workdir: Path,
    settings: Mapping[str, Any],
    cls: type | None = None,
    change: Collection[str] = (),
) -> None:
    """Raises UserError if a folder was trained with other settings than these.

    The message names every setting that differs. All processes must call this.

    Args:
        settings: the content of `train.json`.
        cls: the dataclass of these settings; a record may be older than some of them.
        change: dotted keys that may differ.
    """

    def check() -> None:
        # The clocks of several machines may give their copies of the data other times.
        if is_main() and is_training_folder(workdir):
            _check(workdir, settings, cls, change)

    everywhere(check)


def write_record(
    workdir: Path,
    settings: Mapping[str, Any],
    cls: type | None = None,
    change: Collection[str] = (),
    *,
    step: int,
) -> None:
    """Writes `train.json`, with the changes up to now; see `check_record`.

    Args:
        step: the number of steps that are done.
    """
    if not is_main():
        return
    changes = []
    if is_training_folder(workdir):
        found = _whole(read_settings(workdir), cls)
        changes = list(found.get("changes", ()))
        for key in change:
            old, new = _get(found, key), _get(settings, key)
            if old != new:
                changes.append({"step": step, "key": key, "old": old, "new": new})
    workdir.mkdir(parents=True, exist_ok=True)
    written = {**settings, **({"changes": changes} if changes else {})}
    with atomic_file(workdir / SETTINGS) as partial:
        partial.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _check(
    workdir: Path,
    settings: Mapping[str, Any],
    cls: type | None,
    change: Collection[str],
) -> None:
    path, found = workdir / SETTINGS, read_settings(workdir)
    _check_kind(workdir, found, settings.get("kind"))
    again = f"or start a new training from this one: --init {workdir} --workdir NEW"
    if differing_data := other_data(found, settings):
        raise UserError(f"{path}: was trained {differing_data}, {again}")
    keys = ("schedule", "schedule_constants")
    if [found.get(key) for key in keys] != [settings.get(key) for key in keys]:
        raise _other_schedule(workdir, found)
    begun, given = (x.get("init") or {} for x in (found, settings))
    if begun.get("sha256") != given.get("sha256"):
        how = f"from {begun.get('folder', 'a model')}" if begun else "without a model"
        raise UserError(
            f"{path}: began {how}, not from this --init; name the model that it began "
            f"from, {again}"
        )
    one, other = found.get("features"), settings.get("features")
    if one and other and one != other:
        raise UserError(
            f"{path}: used another VGG16 for step.losses.perceptual (SHA-256 "
            f"{one[:12]}…, this one is {other[:12]}…); name that one in "
            f"step.losses.perceptual.file, {again}"
        )
    stated = None if cls is None else {field.name for field in fields(cls)}
    one, other = (
        {
            key: value
            for key, value in _whole(part, cls).items()
            if key not in _DERIVED and (stated is None or key in stated)
        }
        for part in (found, settings)
    )
    differing = [
        (key, old, new)
        for key, old, new in _differences(one, other)
        if _how(key) != "free" and key not in change
    ]
    if not differing:
        return
    names = ", ".join(f"{key} = {old!r}, not {new!r}" for key, old, new in differing)
    options = [f"--change {k}={new}" for k, _, new in differing if _how(k) == "change"]
    ways = [f"go on with {' '.join(options)} in place of --set"] if options else []
    if len(options) < len(differing):
        ways.append("leave the others as they were" if options else "leave that out")
    raise UserError(f"{path}: was trained with {names}; {', '.join(ways)}, {again}")


def _check_kind(workdir: Path, found: Mapping[str, Any], kind: Any) -> None:
    if found.get("kind") != kind:
        raise UserError(
            f"{workdir / SETTINGS}: trains a {found.get('kind')}, not a {kind}; name "
            "another --workdir"
        )


def _other_schedule(workdir: Path, found: Mapping[str, Any]) -> UserError:
    # Trainings of 0.1.0 do not record their schedule.
    began = "the version that began it" if "schedule" in found else "soraxla 0.1.0"
    return UserError(
        f"{workdir / SETTINGS}: was trained with another schedule of its visits than "
        f"this version's; finish it with {began}, or start from it: --init {workdir} "
        "--workdir NEW"
    )


def _how(key: str) -> str | None:
    """Returns the entry of `RESUME` for a setting, or that of a group it is in."""
    names = key.split(".")
    heads = (".".join(names[:i]) for i in range(1, len(names) + 1))
    return next((RESUME[head] for head in heads if head in RESUME), None)


def _whole(record: Mapping[str, Any], cls: type | None) -> dict[str, Any]:
    return dict(record) if cls is None else filled(cls, record)


def _differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), f"{prefix}{key}.")
    elif a != b:
        yield prefix.rstrip("."), a, b


# --- Dotted keys ------------------------------------------------------------------


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts that may be changed."""
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _get(values: Mapping[str, Any], key: str, *, default: Any = None) -> Any:
    node: Any = values
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return default
        node = node[name]
    return node


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for name in groups:
        values = values.setdefault(name, {})
    values[last] = value
