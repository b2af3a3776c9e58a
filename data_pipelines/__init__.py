"""From media to packed batches: sources, prepare, windows, packed rows.

This file imports nothing heavy: `SAMPLES` is wanted by commands that must start fast.
"""

from pathlib import Path

SAMPLES: Path = Path(__file__).parent / "samples"
