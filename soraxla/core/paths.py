"""Paths as users give them: local ones only."""

import re
from pathlib import Path

from soraxla.core.errors import UserError

# A `Path` has lost one of the two slashes. Paths of models may follow a name and a
# colon, as in umt5:gs://bucket/folder.
_URL = re.compile(r"(?:[a-z0-9]+:)?([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_URL_PATH = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)


def refuse_urls(**places: object) -> None:
    """Raises UserError if one of the places, by the name of each, is a URL.

    Texts, paths, and lists of them are checked.
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
                    f"({found[1]}: is a URL's scheme); mount the bucket, by gcsfuse "
                    "for example, and give the path below the mount"
                )
