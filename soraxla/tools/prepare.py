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
from data_pipelines.shards import SHARD_BYTES
from data_pipelines.sources.media import CAPTION_MIX
from soraxla.assets import small_vae
from soraxla.checkpoints.load import LoadedModel, load_vae, vae_as_folder
from soraxla.core.errors import UserError
from soraxla.generation.vae_streaming import encode_clips
from soraxla.models.text import TextEncoder, load_text_encoder
from soraxla.parallel.mesh import own_devices
from soraxla.parallel.multihost import everywhere, is_main

TEXT_ENCODER = "hashed"
_AT_ONCE = 2  # batches for each device, so that it need not wait for the host


def prepare_dataset(
    source: str | Path,
    out: str | Path,
    *,
    vae: str | Path | None = None,
    text_encoder: str | None = None,
    data_dir: str | Path | None = None,
    conditions: bool = True,
    caption_mix: float = CAPTION_MIX,
    caption_column: str | None = None,
    max_tokens: int = 32768,
    max_bad: float = 0.05,
    shard_bytes: int = SHARD_BYTES,
    worker: tuple[int, int] | None = None,
) -> Dataset | None:
    """Encodes captioned media into the folder `out` on all devices; docs/dataset.md.

    Args:
        source: a folder with captions, clips.parquet[/SPLIT], tfds:NAME[/SPLIT],
            wds:PLACE, or "samples", the ten clips and pictures that are shipped.
        vae: a VAE's model folder or training folder; None is the small one shipped.
        text_encoder: hashed, minilm, or umt5:PATH, t5:PATH, clip:PATH, bert:PATH; None
            is hashed.
        data_dir: folder of TFDS datasets, or of a table's films; None is the default.
        conditions: encode also the condition frames of tasks other than text to video.
        caption_mix: share of a table's clips that keep their original caption.
        caption_column: a dataset's field of captions; None is the first usual name.
        max_tokens, max_bad, shard_bytes: see `data_pipelines.prepare.prepare`.
        worker: as there; None is all, or a share for each process of a group.

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
                data_dir=data_dir,
                encode=_encoders(load_vae(folder), encoder),
                vae_dir=folder,
                vae_sha256=sha256,
                text_encoder=encoder.name,
                conditions=conditions,
                caption_mix=caption_mix,
                caption_column=caption_column,
                max_tokens=max_tokens,
                max_bad=max_bad,
                shard_bytes=shard_bytes,
                worker=worker,
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


def _encoders(loaded: LoadedModel, encoder: TextEncoder) -> Encoders:
    videos = _VideoEncoder(loaded)
    return Encoders(
        videos=videos,
        text=getattr(encoder, "in_batches", encoder),
        channels=loaded.model.latent_channels,
        spatial=loaded.model.spatial,
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
