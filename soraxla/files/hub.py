"""Models that are downloaded: `hf:ORG/NAME[/FOLDER]`, or those of object stores."""

from pathlib import Path

from soraxla.core import paths
from soraxla.core.errors import UserError

_SCHEME = "hf:"
# The folder of a tokenizer beside that of a text encoder.
_BESIDE = "tokenizer"
# Weights, configurations and vocabularies; never a pickle.
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt")


def is_remote(place: str | paths.Place) -> bool:
    """Returns whether a place is a name of the hub, or one of an object store."""
    return str(place).startswith(_SCHEME) or paths.is_remote(paths.place(place))


def local(place: str | paths.Place) -> Path:
    """Returns a local path, or the folder that a remote place is downloaded to.

    Of `hf:ORG/NAME/FOLDER`, this folder is downloaded, and `tokenizer` beside it.

    Raises:
        UserError: the download fails.
    """
    if not str(place).startswith(_SCHEME):
        return paths.fetched(paths.place(place))
    name = str(place)
    from huggingface_hub import snapshot_download

    parts = name.removeprefix(_SCHEME).split("/")
    repository, folder = "/".join(parts[:2]), "/".join(parts[2:])
    wanted: list[str] = list(_WANTED)
    if folder:
        wanted = [f"{each}/{kind}" for each in (folder, _BESIDE) for kind in _WANTED]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted)) / folder
    except Exception as error:  # of the library, of the network or for the name
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UserError(
            f"{name}: cannot be downloaded ({reason}); check the name and the network, "
            "or give a local folder"
        ) from error
