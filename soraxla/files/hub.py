"""Models named `hf:ORG/NAME`, fetched from the Hugging Face hub."""

from pathlib import Path

from soraxla.core.errors import UserError

_SCHEME = "hf:"
# Weights and what reads them; never a pickle.
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt")


def local(place: str | Path) -> Path:
    """A path as it is, or the folder that `hf:ORG/NAME` was downloaded to.

    Raises:
        UserError: it cannot be downloaded.
    """
    name = str(place)
    if not name.startswith(_SCHEME):
        return Path(place)
    from huggingface_hub import snapshot_download

    repository = name.removeprefix(_SCHEME)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED)))
    except Exception as error:  # the library's, the network's and the name's own kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise UserError(
            f"{name}: cannot be downloaded ({reason}); check the name and the network, "
            "or give a local folder"
        ) from error
