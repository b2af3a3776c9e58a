"""A sample of `tests/kills.py`; the whole takes an hour."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_killed_commands_end_in_the_same_bits():
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "prepare", "dit", "--kills", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = [row.split("|") for row in done.stdout.splitlines() if row.startswith("| ")]
    kills = {row[1].strip(): row[2].strip() for row in rows[1:]}
    assert kills == dict.fromkeys(("prepare", "dit"), "1")
