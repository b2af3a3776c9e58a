"""Names of files by the patterns of shards, such as clips-{0000..0099}.tar."""

import glob
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from soraxla.core.errors import UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def files_of(place: str, suffix: str) -> list[Path]:
    """Returns the files of a folder by name, or of a pattern in the pattern's order.

    A pattern has the shell's braces, `{00..12}` and `{a,b}`, and the wildcards `*`, `?`
    and `[…]`. Files of a wildcard are sorted. A file is returned once.

    Raises:
        UserError: there is no such file, or the folder has none with the suffix.
    """
    path = Path(place)
    if path.is_file():
        return [path]
    if path.is_dir():
        below = sorted(path.rglob(f"*{suffix}"), key=lambda file: file.as_posix())
        found = [file for file in below if file.is_file() and file.name[0] != "."]
        if not found:
            raise UserError(f"{place}: has no {suffix} files; name another folder")
        return found
    return list(dict.fromkeys(chain.from_iterable(map(_files, expanded(place)))))


def expanded(pattern: str) -> Iterator[str]:
    """Yields the names that a pattern's braces stand for, as in Bash."""
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    for choice in _choices(match[1]):
        yield from expanded(pattern[: match.start()] + choice + pattern[match.end() :])


def _choices(text: str) -> list[str]:
    bounds = _RANGE.fullmatch(text)
    if bounds is None:
        return text.split(",")
    first, last = map(int, bounds.groups())
    padded = any(bound.startswith("0") and len(bound) > 1 for bound in bounds.groups())
    width = max(map(len, bounds.groups())) if padded else 0
    step = 1 if first <= last else -1
    return [str(number).zfill(width) for number in range(first, last + step, step)]


def _files(name: str) -> list[Path]:
    found = [Path(each) for each in sorted(glob.glob(name)) if Path(each).is_file()]
    if not found:
        raise UserError(f"{name}: no such file; check the folder or the pattern")
    return found
