"""Models named `hf:ORG/NAME`, downloaded from the Hugging Face hub."""

from pathlib import Path

from soraxla.core.errors import UserError

_SCHEME = "hf:"
# Weights, configurations and vocabularies; never a pickle.
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt")


def local(place: str | Path) -> Path:
    """Returns a local path, or the folder that `hf:ORG/NAME` is downloaded to.

    Raises:
        UserError: the download fails.
    """
    name = str(place)
    if not name.startswith(_SCHEME):
        return Path(place)
    from huggingface_hub import snapshot_download

    repository = name.removeprefix(_SCHEME)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED)))
    except Exception as error:  # of the library, of the network or for the name
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UserError(
            f"{name}: cannot be downloaded ({reason}); check the name and the network, "
            "or give a local folder"
        ) from error
