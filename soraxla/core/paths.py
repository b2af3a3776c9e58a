"""Places as users give them: local paths, and addresses such as gs://bucket/folder."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from soraxla.core.remote import RemotePath

    Place = Path  # a `RemotePath` has those of its methods that are used
else:  # fsspec takes a while to import
    from typing import TypeGuard as TypeIs  # TypeIs is new in Python 3.13

    RemotePath = PurePosixPath
    Place = PurePosixPath  # the base class of local paths and of `RemotePath`

# Those of etils.epath, by which Orbax reads and writes too.
SCHEMES = ("gs", "s3", "az", "hf")

# A `Path` has lost one of the two slashes. Paths of models may follow a name and a
# colon, as in umt5:gs://bucket/folder.
_URL = re.compile(r"(?:[a-z0-9]+:)?([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_URL_PATH = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://?(?=[^/])")


def place(text: str | os.PathLike[str]) -> Place:
    """Returns the local path of a text, or the remote one of an address."""
    if is_remote(text):
        remote: Any = text
        return remote
    whole = os.fspath(text)
    if (found := _ADDRESS.match(whole)) is None:
        return Path(text)
    from soraxla.core import remote

    made: Any = remote.RemotePath(f"{found[1]}://{whole[found.end() :]}")
    return made


def place_or_name(text: str) -> Place | str:
    """Returns the remote path of an address, and any other text as it is."""
    return place(text) if _ADDRESS.match(text) else text


def is_remote(place: object) -> TypeIs[RemotePath]:
    """Returns whether a place is one of an object store."""
    return isinstance(place, PurePosixPath) and not isinstance(place, Path)


def fetched(place: Place) -> Path:
    """Returns a local copy of a remote file or folder; a local one is its own.

    The copy is removed when the process ends. A place that has not changed is
    downloaded once.

    Raises:
        UserError: the store cannot be reached, or there is nothing.
    """
    if not is_remote(place):
        return Path(place)
    from soraxla.core.remote import copy_of

    return copy_of(place)


def refuse_urls(**places: object) -> None:
    """Raises UserError if one of the places, by the name of each, is a URL.

    Texts, local paths, and lists of them are checked. The options that take addresses
    of object stores make remote paths of them, by `place`.
    """
    for name, value in places.items():
        for place in value if isinstance(value, list | tuple) else [value]:
            pattern = _URL_PATH if isinstance(place, Path) else _URL
            if isinstance(place, str | Path) and (found := pattern.match(str(place))):
                text = str(place)
                if isinstance(place, Path):
                    text = text.replace(":/", "://", 1)
                raise UserError(
                    f"{name} is {text}, but only local files are read and written "
                    f"here ({found[1]}: is a URL's scheme); mount the bucket, by "
                    "gcsfuse for example, and give the path below the mount"
                )


def refuse_remote(reason: str, **places: object) -> None:
    """Raises UserError if one of the places, by the name of each, is remote.

    Args:
        reason: why, as in "PyAV reads local files".
    """
    for name, place in places.items():
        if is_remote(place):
            raise UserError(
                f"{name} is {place}, but {reason}; mount the bucket, by gcsfuse for "
                "example, and give the path below the mount"
            )
