"""Members of a tar archive, grouped as WebDataset groups them.

The format is that of https://github.com/webdataset/webdataset (tariterators.py at
e0953f9). A member's name is a key, a dot and a field: `base_plus_ext` divides it at the
first dot after the last slash, so fields may have dots. A name without a dot or a key
belongs to no sample, and one such as `__meta__` is metadata. Fields are compared in
lower case. Members of one key are a sample.

WebDataset streams archives, so it needs the members of a sample one after another. Here
an archive is listed first, and they may be anywhere in it.
"""

import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from soraxla.core.errors import UserError

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:[./]|$)")
_TEXTS = ("txt", "json")
_MOST_TEXT = 1 << 20  # bytes
_BLOCK = 512  # bytes of tar's grid
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, …


class Member(NamedTuple):
    """A member's field, and the place of its bytes in the archive."""

    field: str
    offset: int
    size: int


class Group(NamedTuple):
    """The members of a key, and the contents of its .txt and .json."""

    key: str
    members: list[Member]
    texts: dict[str, bytes]


def list_archive(archive: Path) -> list[Group]:
    """Returns the groups of an archive, in the order of their first members.

    Raises:
        UserError: the archive is compressed, damaged or cut short, or none.
    """
    groups: dict[str, Group] = {}
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                vars(tar)["members"] = []  # which would keep all of them
                name = _NAME.fullmatch(info.name.removeprefix("./"))
                if not info.isreg() or name is None or _META.match(info.name):
                    continue
                key, field = name[1], name[2].lower()
                group = groups.setdefault(key, Group(key, [], {}))
                group.members.append(Member(field, info.offset_data, info.size))
                if field in _TEXTS and info.size <= _MOST_TEXT:
                    file.seek(info.offset_data)
                    group.texts[field] = file.read(info.size)
            _check_end(archive, file, tar.offset)
    except tarfile.ReadError as error:
        raise UserError(f"{archive}: {_reason(archive, error)}") from None
    return list(groups.values())


def _check_end(archive: Path, file: BinaryIO, end: int) -> None:
    """Raises UserError unless an archive has its end mark, a block of zeros, at `end`.

    The tarfile module takes an archive that is cut off or damaged there for whole.
    """
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise UserError(
            f"{archive}: is cut short at {end:,} bytes (no end mark); copy it again"
        )
    if any(block):
        raise UserError(f"{archive}: is damaged at byte {end:,}; copy it again")


def _reason(archive: Path, error: tarfile.ReadError) -> str:
    """Returns the reason that an archive cannot be read."""
    with archive.open("rb") as file:
        head = file.read(6)
    if head.startswith(_COMPRESSED):
        return "is compressed, so samples cannot be found in it; unpack it to a .tar"
    if str(error) == "unexpected end of data":
        return "is cut short (unexpected end of data); copy it again"
    return f"is no tar archive ({error}); copy it again, or rename it"
