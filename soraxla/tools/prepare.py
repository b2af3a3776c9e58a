"""Media and captions to a dataset, with a VAE and a text encoder by folder and name."""

from pathlib import Path

import jax

from data_pipelines import SAMPLES
from data_pipelines.dataset import Dataset, open_dataset
from data_pipelines.prepare import prepare
from soraxla.assets import small_vae
from soraxla.checkpoints.load import load_vae, vae_as_folder
from soraxla.generation.vae_streaming import encode_clip
from soraxla.models.text import load_text_encoder
from soraxla.parallel.mesh import sampling_mesh

TEXT_ENCODER = "hashed"


def prepare_dataset(
    source: str | Path,
    out: str | Path,
    *,
    vae: str | Path | None = None,
    text_encoder: str | None = None,
    data_dir: str | Path | None = None,
    conditions: bool = True,
    max_tokens: int = 32768,
    max_bad: float = 0.05,
) -> Dataset:
    """Encodes captioned media into the folder `out` on all devices; docs/dataset.md.

    Args:
        source: a folder with captions, tfds:NAME[/SPLIT], clips.parquet[/SPLIT], or
            "samples", the ten clips and pictures that are shipped.
        vae: a VAE's model folder or training folder; None is the small one shipped.
        text_encoder: hashed, minilm, or umt5:PATH, t5:PATH, clip:PATH, bert:PATH; None
            is hashed.
        data_dir: folder of TFDS datasets, by default TFDS_DATA_DIR or TFDS's own; or
            of a table's films, by default those that were curated.
        conditions: encode also the condition frames of tasks other than text to video.
        max_tokens: longer clips are split; in pixels.
        max_bad: share of unreadable media to accept.

    Raises:
        ValueError: a source, VAE, encoder or number that cannot be used, too many bad
            media, or an `out` that holds something else.
        OSError: `out` cannot be written, or another run writes it.
    """
    with jax.set_mesh(sampling_mesh()):
        encoder = load_text_encoder(text_encoder or TEXT_ENCODER)
        with vae_as_folder(Path(vae or small_vae())) as (folder, sha256):
            loaded = load_vae(folder)
            prepare(
                SAMPLES if source == "samples" else source,
                out,
                data_dir=data_dir,
                encode_video=lambda video: encode_clip(
                    loaded.params, loaded.model, video
                ),
                encode_text=encoder,
                vae_dir=folder,
                vae_sha256=sha256,
                text_encoder=encoder.name,
                vae_spatial=loaded.model.spatial,
                conditions=conditions,
                max_tokens=max_tokens,
                max_bad=max_bad,
            )
    return open_dataset(out)
