"""The path from media to packed batches: sources, prepare, windows, packed rows.

This file imports nothing heavy, since commands that must start fast use `SAMPLES`.
"""

from pathlib import Path

SAMPLES: Path = Path(__file__).parent / "samples"
