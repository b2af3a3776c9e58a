"""The steps of curation on Apache Beam. Each worker imports this module.

Its classes and functions are pickled by name, so that a worker runs its own copy of the
package and not the driver's.
"""

import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_pipelines.curate import duplicates, remote, table
from data_pipelines.curate.duplicates import Hashed
from data_pipelines.curate.film import CurateConfig, LoadScorers
from data_pipelines.curate.work import Film, computed
from soraxla.core.errors import UserError

# Not by `import`: the checks of types run without Beam.
beam: Any = importlib.import_module("apache_beam")
_BANDS = "bands"


class ScoreFilms(beam.DoFn):
    """A file to its answer, a line of JSON, and its clips under their bands."""

    def __init__(self, cfg: CurateConfig, load_scorers: LoadScorers, lines: str):
        super().__init__()
        self._cfg, self._load_scorers, self._lines = cfg, load_scorers, lines

    def setup(self) -> None:
        self._scorers = self._load_scorers()

    def process(self, film: Film) -> Iterator[Any]:
        try:
            work = remote.computed if remote.is_remote(film.root) else computed
            sha, rows = work(film, self._cfg, self._scorers)
        except (UserError, OSError) as error:
            yield json.dumps([film.source, {"error": str(error)}])
            return
        for row in rows:
            if row["hash"]:
                for band in duplicates.bands(table.hashed(row)):
                    yield beam.pvalue.TaggedOutput(_BANDS, band)
        name = hashlib.sha256(film.source.encode()).hexdigest()
        remote.touch(f"{self._lines}/{name}.done")
        yield json.dumps([film.source, {"sha256": sha}])


def near_pairs(group: tuple[str, Iterable[Hashed]]) -> list[str]:
    """Returns the near pairs of the clips of one band, as lines of JSON."""
    return [json.dumps(pair) for pair in sorted(duplicates.pairs(group[1]))]


def add_steps(pipeline: Any, films: Sequence[Film], work: ScoreFilms, to: str) -> None:
    """Adds all steps to a pipeline, which writes files-* and pairs-* into `to`."""
    done = (
        pipeline
        | "films" >> beam.Create(films)
        | "spread" >> beam.Reshuffle()
        | "score" >> beam.ParDo(work).with_outputs(_BANDS, main="files")
    )
    _ = done.files | "write files" >> beam.io.WriteToText(f"{to}/files")
    _ = (
        done[_BANDS]
        | "group" >> beam.GroupByKey()
        | "compare" >> beam.FlatMap(near_pairs)
        | "once" >> beam.Distinct()
        | "write pairs" >> beam.io.WriteToText(f"{to}/pairs")
    )
