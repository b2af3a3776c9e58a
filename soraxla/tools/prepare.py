"""Media and captions to a dataset, with a VAE and a text encoder by folder and name."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np

from data_pipelines import SAMPLES
from data_pipelines.dataset import Dataset, open_dataset
from data_pipelines.encoders import Encoders
from data_pipelines.prepare import prepare
from soraxla.assets import small_vae
from soraxla.checkpoints.load import LoadedModel, load_vae, vae_as_folder
from soraxla.core.errors import UserError
from soraxla.generation.vae_streaming import encode_clips
from soraxla.models.text import TextEncoder, load_text_encoder
from soraxla.parallel.mesh import own_devices
from soraxla.parallel.multihost import everywhere, is_main
from soraxla.tools.token_features import load_token_features

TEXT_ENCODER = "hashed"
_AT_ONCE = 2  # batches for each device, so that it need not wait for the host


def prepare_dataset(
    source: str | Path,
    out: str | Path,
    *,
    vae: str | Path | None = None,
    text_encoder: str | None = None,
    features: str | None = None,
    worker: tuple[int, int] | None = None,
    **settings: Any,
) -> Dataset | None:
    """Encodes captioned media into the folder `out` on all devices; docs/dataset.md.

    Args:
        source: that of `prepare`, or "samples", the clips and pictures shipped.
        vae: a VAE's model folder or training folder; None is the small one shipped.
        text_encoder: hashed (None), minilm, umt5:PATH, t5:PATH, clip:PATH or bert:PATH.
        features: what to store of each token: simulator (of worlds) or dinov2:FOLDER.
        worker: (i, n) encodes every n-th shard from the i-th on, into a folder that n
            workers share. None is all, or a share for each process of a group.
        settings: of `data_pipelines.prepare.prepare`.

    Returns:
        The dataset; None if other workers have not finished their shards.

    Raises:
        ValueError: a wrong source, VAE, encoder, number or `out`; many bad media.
        OSError: `out` cannot be written, or another run writes it.
    """

    def encode(worker: tuple[int, int]) -> bool:
        with vae_as_folder(Path(vae or small_vae())) as (folder, sha256):
            encoder = load_text_encoder(text_encoder or TEXT_ENCODER)
            card = prepare(
                SAMPLES if source == "samples" else source,
                out,
                encode=_encoders(load_vae(folder), encoder, features),
                vae_dir=folder,
                vae_sha256=sha256,
                text_encoder=encoder.name,
                worker=worker,
                **settings,
            )
        return card is not None

    return open_dataset(out) if _is_finished(encode, worker) else None


def _is_finished(
    encode: Callable[[tuple[int, int]], bool], worker: tuple[int, int] | None
) -> bool:
    """Encodes one worker's share, or those of all processes of the group."""
    processes = jax.process_count()
    if processes == 1:
        return encode(worker or (0, 1))
    if worker is not None:
        raise UserError("--worker: processes of a group divide the work by themselves")
    everywhere(lambda: encode((jax.process_index(), processes)))
    everywhere(lambda: is_main() and encode((0, processes)))  # completes the dataset
    return True


def _encoders(
    loaded: LoadedModel, encoder: TextEncoder, features: str | None
) -> Encoders:
    videos, spatial = _VideoEncoder(loaded), loaded.model.spatial
    return Encoders(
        videos=videos,
        text=getattr(encoder, "in_batches", encoder),
        channels=loaded.model.latent_channels,
        spatial=spatial,
        features=load_token_features(features, spatial) if features else None,
        at_once=videos.at_once,
    )


class _VideoEncoder:
    """A VAE on every device of this host; each encodes whole batches.

    A program is compiled for one device, so latents do not depend on their number.
    """

    def __init__(self, loaded: LoadedModel):
        devices = own_devices()
        # The virtual devices of a CPU share its cores.
        devices = devices[:1] if devices[0].platform == "cpu" else devices
        self._model = loaded.model
        self._params = {d: jax.device_put(loaded.params, d) for d in devices}
        self._free: SimpleQueue[Any] = SimpleQueue()
        self.at_once = _AT_ONCE * len(devices)
        for device in devices * _AT_ONCE:
            self._free.put(device)

    def __call__(self, videos: np.ndarray) -> np.ndarray:
        device = self._free.get()
        try:
            with jax.default_device(device):
                return encode_clips(self._params[device], self._model, list(videos))
        finally:
            self._free.put(device)
