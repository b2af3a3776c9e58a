"""A small curated table without films, for the tests of captions."""

import numpy as np
from PIL import Image

from data_pipelines.curate import table
from data_pipelines.records import PROGRESS

GREYS = (20, 60, 100, 140, 180)


def table_of_pictures(root):
    """Writes five pictures' table; the fourth is dropped, and the third gone.

    The second has a caption. Returns the folder of the table.
    """
    raw, out = root / "raw", root / "clips"
    raw.mkdir()
    (out / PROGRESS).mkdir(parents=True)
    rows = []
    for i, grey in enumerate(GREYS):
        if i != 2:
            Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(raw / f"{i}.png")
        row = {"clip_id": f"id{i}", "source": f"{i}.png", "source_sha256": str(i)}
        row |= {"start_frame": 0, "frames": 1, "start_s": 0.0, "fps": 0.0}
        row |= {"crop": [0, 0, 16, 16], "kept": i != 3, "split": "train", "hash": None}
        rows.append(row | {"caption": "its own words" if i == 1 else None})
    table.write_clips(out / table.CLIPS, rows, {"source": str(raw)})
    return out
