"""A prepared dataset made of random numbers, for tests of what reads one."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import records

GRIDS = ((1, 4, 4), (3, 4, 6), (2, 6, 4), (5, 4, 4), (1, 8, 6), (2, 2, 2), (1, 2, 4))


def _card(
    grids: Sequence[tuple[int, int, int]], channels: int, text_width: int, version: int
):
    return {
        "format": version,
        "vae_sha256": "a" * 64,
        "vae_spatial": 8,
        "vae_temporal": 4,
        "latent_channels": channels,
        "patch": [1, 2, 2],
        "text_encoder": f"hashed:{text_width}",
        "text_width": text_width,
        "samples": len(grids),
        "tokens": sum(t * h * w // 4 for t, h, w in grids),
        "skipped": 0,
        "conditions": False,
        "actions": [],
        "camera": False,
    }


def write_dataset(
    path: Path,
    grids: Sequence[tuple[int, int, int]] = GRIDS,
    *,
    channels: int = 4,
    text_width: int = 8,
    fps: float = 24.0,
    shards: int = 2,
    eval_samples: Collection[int] = (),
    version: int = records.FORMAT,
) -> Path:
    """Writes the folder that `prepare` would, one sample a latent grid (t, h, w).

    Captions have 1 to 5 text tokens and the empty one has 1; the VAE's hash is "a" 64
    times and its folder is left out. Format 2 has no `split`.
    """
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    writers = [
        ArrayRecordWriter(str(path / records.shard_name(shard)), "group_size:1")
        for shard in range(shards)
    ]
    rows, written = [], [0] * shards
    for i, (t, h, w) in enumerate(grids):
        shard = i * shards // len(grids)
        text = rng.normal(size=(1 + i % 5, text_width))
        latents = rng.normal(size=(t, h, w, channels))
        writers[shard].write(records.encode_record(latents=latents, text=text))
        rows.append(
            {
                "uid": f"sample_{i}.mp4",
                "shard": shard,
                "record": written[shard],
                **{"t": t, "h": h, "w": w, "fps": fps if t > 1 else 0.0},
                **{"height": 8 * h, "width": 8 * w, "frames": 4 * t - 3},
                "text_length": len(text),
                "caption": f"caption {i}",
                "source": f"sample_{i}.mp4",
                "crop": [0, 0, 8 * h, 8 * w],
                "start_frame": 0,
                "split": "eval" if i in eval_samples else "train",
                **{"alone": 0, "tails": 0, "spatial": 0},
            }
        )
        written[shard] += 1
    for writer in writers:
        writer.close()
    index = pa.Table.from_pylist(rows, records.INDEX_SCHEMA)
    index = index.drop_columns(["split"]) if version == 2 else index
    pq.write_table(index, path / records.INDEX)
    empty = records.encode_record(text=np.full((1, text_width), 0.5))
    (path / records.EMPTY_TEXT).write_bytes(empty)
    card = _card(grids, channels, text_width, version)
    (path / records.CARD).write_text(json.dumps(card))
    return path
