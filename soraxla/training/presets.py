"""Presets and configuration files: a name or a path to a ConfigDict of settings."""

import inspect
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from soraxla.core.config import RENAMED, build, likely_key, lock, nearest, set_key
from soraxla.core.errors import UserError
from soraxla.training.experiment import (
    CaptionTrainingConfig,
    DiTTrainingConfig,
    VAETrainingConfig,
)
from soraxla.training.finetune import needs_start
from soraxla.training.summary import differences

# The settings of a training by the `kind` of its configuration.
KINDS: dict[str, type] = {
    "dit": DiTTrainingConfig,
    "vae": VAETrainingConfig,
    "captioner": CaptionTrainingConfig,
}

_PACKAGE = Path(__file__).parents[1]  # soraxla/
# ConfigDict's message of many lines on a key that it refuses, and the nearest key.
_LOCKED = re.compile(
    r'Key "(.*?)" does not exist and cannot be added(?:.*Did you mean "(.*?)")?',
    re.DOTALL,
)


def load_preset(spec: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the configuration that a preset's or a file's `get_config` returns.

    Its `kind` names the model and its `preset` is `spec`; all else are settings.

    Args:
        spec: `NAME[:ARGUMENT]`, a preset of `soraxla.configs` such as `dit:s`, or the
            path of a Python file, with a `/` or ending in `.py`.
        overrides: dotted keys and their values, see `soraxla.core.config.set_key`.

    Raises:
        UserError: there is no such preset or file, a mistake or a wrong setting in the
            file (names its line), an argument it does not take, or a wrong override.
    """
    path, argument = _parted(spec)
    module = _run(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path}: has no get_config(); add it, see {presets_folder()}")
    if argument and not inspect.signature(get_config).parameters:
        raise UserError(f"{spec}: takes no argument, remove ':{argument}'")
    try:
        config = get_config(argument) if argument else get_config()
    except (Exception, SystemExit) as error:
        if path.parent == presets_folder() and isinstance(error, UserError):
            raise  # a preset refuses its argument
        raise _fault(path, error) from error
    where = _place(path, get_config)
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(f"{where}: get_config returns {kind}, expected ConfigDict")
    _rename(config, spec)
    cls = training_class(config, spec)
    if path.parent != presets_folder():
        try:
            check_config(config)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    for key, value in (overrides or {}).items():
        set_key(config, cls, key, value)
    locked = config.is_locked
    with config.unlocked():
        config.preset = spec
    if locked:
        lock(config, cls)
    return config


def check_config(config: Mapping[str, Any] | ConfigDict) -> None:
    """Raises UserError unless the settings fit each other and their kind.

    The model of a fine-tuning comes from its folder, and is checked with it.
    """
    cls, (_, settings) = training_class(config), split(config)
    if cls is not DiTTrainingConfig or not needs_start(settings):
        build(cls, settings)


def split(config: Mapping[str, Any] | ConfigDict) -> tuple[str, dict[str, Any]]:
    """Returns (kind, settings) of a configuration, the settings for `build`.

    Raises:
        UserError: there is no such kind.
    """
    training_class(config)
    is_config = isinstance(config, ConfigDict)
    settings = config.to_dict() if is_config else dict(config)
    settings.pop("preset", None)
    return settings.pop("kind"), settings


def changes(config: Mapping[str, Any] | ConfigDict) -> list[str]:
    """Returns how the settings of a configuration differ from those of its preset."""
    spec = config.get("preset")
    if not isinstance(spec, str):
        return []
    try:
        preset = split(load_preset(spec))[1]
    except UserError:  # a file that is gone
        return []
    return differences(preset, split(config)[1])


def _rename(config: ConfigDict, spec: str) -> None:
    """Gives the settings of a file of any age today's names, in place."""
    for old, new in RENAMED.items():
        *groups, last = old.split(".")
        node: Any = config
        for group in groups:
            node = node.get(group) if isinstance(node, ConfigDict) else None
        if isinstance(node, ConfigDict) and last in node:
            value = node[last]
            with node.unlocked():
                del node[last]
            set_key(config, training_class(config, spec), new, value)


def training_class(config: Mapping[str, Any] | ConfigDict, spec: str = "") -> type:
    """Returns the dataclass of a configuration's `kind`.

    Raises:
        UserError: there is no such kind.
    """
    kind = config.get("kind")
    if kind not in KINDS:
        where = f"{spec}: " if spec else ""
        known = ", ".join(map(repr, KINDS))
        raise UserError(f"{where}kind is {kind!r}, expected one of {known}")
    return KINDS[kind]


def presets_folder() -> Path:
    """Returns the folder of the presets: installed, or beside the package's source."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def preset_names() -> list[str]:
    """Returns the names that `load_preset` knows."""
    return sorted(p.stem for p in presets_folder().glob("[!_]*.py"))


def _parted(spec: str) -> tuple[Path, str]:
    """Returns the file of a spec, and its argument or ""."""
    file = re.fullmatch(r"(.*?\.py)(?::(.*))?", spec)
    if file is None and "/" not in spec:
        name, _, argument = spec.partition(":")
        if name not in preset_names():
            raise UserError(
                f"unknown preset {name!r}{nearest(name, preset_names())}; "
                "a file of your own ends in .py"
            )
        return presets_folder() / f"{name}.py", argument
    if file is None:
        raise UserError(f"{spec}: not a Python file; a configuration ends in .py")
    path = Path(file[1])
    if not path.is_file():
        raise UserError(
            f"{path}: no such configuration; presets are {', '.join(preset_names())}"
        )
    return path, file[2] or ""


def _run(path: Path) -> ModuleType:
    """Returns the module of a file; leaves no bytecode beside it."""
    module = ModuleType("soraxla_config")
    module.__file__ = str(path.absolute())
    try:
        exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise _fault(path, error) from error
    return module


def _place(path: Path, function: Any) -> str:
    """Returns the file, with the line of its function where the file defines it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or Path(code.co_filename) != path.absolute():
        return str(path)
    return f"{path}:{code.co_firstlineno}"


def _fault(path: Path, error: BaseException) -> UserError:
    """Returns the one-line error of a mistake in a configuration file."""
    file = str(path.absolute())
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    where = f"{path}:{lines[-1]}" if lines else str(path)
    if isinstance(error, UserError):
        return UserError(f"{where}: {error}")
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    if refused := _LOCKED.search(said):
        return UserError(f"{where}: {_unknown(*refused.groups())}")
    return UserError(f"{where}: {type(error).__name__}: {' '.join(said.split())}")


def _unknown(key: str, near: str | None) -> str:
    """Returns the message on a key that a locked ConfigDict refused."""
    for old, new in RENAMED.items():
        if old.rpartition(".")[2] == key:
            return f"setting {old!r} is called {new!r} now"
    whole = (likely_key(key, cls) for cls in KINDS.values())
    near = next((leaf for leaf in whole if leaf), near)
    hint = f": did you mean {near!r}?" if near else ""
    return f"unknown setting {key!r}{hint}"
