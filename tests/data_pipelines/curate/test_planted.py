"""A film of thirty shots with planted faults is curated rightly."""

import itertools

import cv2
import numpy as np
import pytest

from data_pipelines.curate import run
from data_pipelines.curate.shots import ShotsConfig, find_cuts
from soraxla.media.read import read_frames
from tests.data_pipelines.curate.films import film, shot

LENGTH, SIZE = 150, (180, 320)  # 30 shots of 6 s
FAULTS = {
    6: ("motion", "mean"),
    9: ("picture", "sharpness"),
    12: ("picture", "exposure"),
    15: ("text", "share"),
    18: ("duplicates", "distance"),
}


def planted():
    """Thirty shots, some with a fault, and some that fade or flash."""
    shots = [shot(n, LENGTH, size=SIZE, speed=2 + n % 3) for n in range(30)]
    shots[3][:, :24] = shots[3][:, -24:] = 0
    shots[6][:] = shots[6][:1]
    shots[9] = np.stack([cv2.GaussianBlur(f, (0, 0), 6) for f in shots[9]])
    shots[12] //= 9
    for frame in shots[15]:
        cv2.putText(frame, "BREAKING NEWS", (20, 150), 0, 1.1, (255,) * 3, 2)
    shots[18] = shots[4].copy()
    ramp = np.linspace(1, 0, 20)[:, None, None, None]
    for n in (20, 24):
        shots[n][-20:] = (shots[n][-20:] * ramp).astype(np.uint8)
        shots[n + 1][:20] = (shots[n + 1][:20] * ramp[::-1]).astype(np.uint8)
    shots[22][70:72] = 255
    shots[27][50] = shots[5][0]
    return shots


@pytest.mark.slow
def test_a_film_of_planted_faults(tmp_path):
    path = film(tmp_path / "raw" / "film.mp4", *planted())
    cuts = find_cuts(read_frames(path), 25.0, ShotsConfig())
    truth = np.arange(1, 30) * LENGTH
    found = [t for t in truth if np.abs(np.subtract(cuts, t)).min() <= 12]
    false = [c for c in cuts if np.abs(truth - c).min() > 12]
    assert len(found) >= 28 and len(false) <= 2
    rows = run.curate(tmp_path / "raw", tmp_path / "out", progress=False)
    by_shot = {(row["start_frame"] + 60) // LENGTH: row for row in rows}
    assert len(by_shot) == len(rows) == len(cuts) + 1
    dropped = {
        number: (row["dropped_by"], row["reason"].split()[0])
        for number, row in by_shot.items()
        if not row["kept"]
    }
    assert dropped == FAULTS
    assert by_shot[3]["crop"][0] in range(24, 30)
    plain = [row["crop"] for number, row in by_shot.items() if number != 3]
    assert all(crop == [0, 0, *SIZE] for crop in plain)
    for a, b in itertools.pairwise(rows):
        assert a["start_frame"] + a["frames"] <= b["start_frame"]
