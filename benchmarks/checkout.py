"""The loader of a checkout, old or new, as a peer of benchmarks.

    PYTHONPATH=CHECKOUT python -P benchmarks/checkout.py loader DATASET

Names that have moved since commit e215bbb are looked up in both places.
"""

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.peer import Case, clock, serve
from data_pipelines.dataset import open_dataset

PACK: dict[str, Any] = {"row_length": 1024, "text_length": 512, "max_segments": 32}
ROWS = 4  # to a step
STEPS = 24  # to a round
_PLACES = {
    "packed_batches": "data_pipelines/loader data_pipelines/packed",
    "time_shift": "soraxla/diffusion/noise_schedule soraxla/diffusion/schedule",
    "PackConfig": "soraxla/packing/pack soraxla/packing",
}
_OLD_NAMES = {"PackConfig": "PackSpec"}


def find(name: str) -> Any:
    """Returns an object of the checkout by its new name."""
    for place in _PLACES[name].split():
        try:
            module = importlib.import_module(place.replace("/", "."))
        except ModuleNotFoundError:
            continue
        for spelled in (name, _OLD_NAMES.get(name, name)):
            if hasattr(module, spelled):
                return getattr(module, spelled)
    raise SystemExit(f"{name} is in none of {_PLACES[name]}")


def loader(folder: str) -> Iterator[tuple[str, Case]]:
    """Yields reading as fast as the loader goes."""
    batches = find("packed_batches")(
        open_dataset(Path(folder)),
        find("PackConfig")(**PACK),
        seed=0,
        batch_rows=ROWS,
        shift=functools.partial(find("time_shift"), 3.0),
    )

    def run() -> list[Any]:
        iterator = iter(batches)  # no batch was read before the clock started
        read = [next(iterator) for _ in range(STEPS)]
        iterator.close()
        return read

    yield "loader", (run, lambda found: {"text": found[0].text.astype("float32")})


def main(what: str, *arguments: str) -> None:
    cases = dict({"loader": loader}[what](*arguments))
    serve(cases, {"jax": jax.__version__, "clock": clock.__doc__})


if __name__ == "__main__":
    main(*sys.argv[1:])
