"""The progress of `prepare`: counts, a bar, and a limit of bad samples."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines import records, transforms
from data_pipelines.bad_media import check_share

REMEDY = "see {}, then repair or remove them, or raise --max-bad"


class Progress:
    """A counter of samples with a progress bar, which stops after too many bad ones."""

    def __init__(
        self,
        out: Path,
        total: int,
        done: int,
        skipped: list[dict[str, str]],
        *,
        source: int,
        max_bad: float | int,
        shown: bool,
        earlier: Sequence[dict[str, str]] = (),
    ):
        """Begins to count.

        Args:
            out: folder of the dataset.
            total, done: samples of this worker.
            skipped: those of them that cannot be used.
            source: samples of all workers.
            earlier: what a dataset that is extended has skipped.
        """
        self._out, self._skipped, self._earlier = out, skipped, earlier
        self._source, self._max_bad = source, max_bad
        self._frames = self._tokens = 0
        self._bar = tqdm(total=total, initial=done, unit="sample", disable=not shown)
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, rows: list[dict[str, Any]]) -> None:
        """Counts a sample with its index rows."""
        self._frames += sum(row["frames"] for row in rows)
        self._tokens += sum(map(tokens, rows))
        seconds = max(time.monotonic() - self._start, 1e-3)
        self._bar.set_postfix_str(
            f"{self._frames / seconds:.1f} frames/s, "
            f"{self._tokens / seconds:.0f} tokens/s, {len(self._skipped)} skipped",
            refresh=False,
        )
        self._bar.update()

    def skip(self, entry: dict[str, str]) -> None:
        """Notes a bad sample; raises UserError if there are more than allowed."""
        self._skipped.append(entry)
        listed = self._out / records.SKIPPED
        if len(self._skipped) > self._max_bad * self._source:
            records.write_lines(listed, [*self._earlier, *self._skipped])
        check_share(
            self._skipped,
            self._source,
            self._max_bad,
            f"{entry['file']}: {entry['reason']}",
            REMEDY.format(listed),
        )


def tokens(row: dict[str, Any]) -> int:
    """Returns the tokens of an index row."""
    patch_t, patch_h, patch_w = transforms.PATCH
    return row["t"] // patch_t * (row["h"] // patch_h) * (row["w"] // patch_w)
