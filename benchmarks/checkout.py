"""The loader and the train step of a checkout, old or new, as a peer of benchmarks.

    PYTHONPATH=CHECKOUT python -P benchmarks/checkout.py loader DATASET
    PYTHONPATH=CHECKOUT python -P benchmarks/checkout.py step

Names that have moved since commit e215bbb are looked up in both places.
"""

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from soraxla.core.allocator import keep_freed_pages
except ModuleNotFoundError:  # an old checkout has none
    pass
else:
    keep_freed_pages()  # as `soraxla train` does

import jax
import numpy as np

from benchmarks.peer import Case, clock, serve
from data_pipelines.dataset import open_dataset

PACK: dict[str, Any] = {"row_length": 1024, "text_length": 512, "max_segments": 32}
ROWS = 4  # to a step
STEPS = 24  # to a round
_PLACES = {
    "packed_batches": "data_pipelines/loader data_pipelines/packed",
    "time_shift": "soraxla/diffusion/noise_schedule soraxla/diffusion/schedule",
    "PackConfig": "soraxla/packing/pack soraxla/packing",
    "Segment": "soraxla/packing/pack soraxla/packing",
    "pack": "soraxla/packing/pack soraxla/packing",
    "positions": "soraxla/packing/patchify soraxla/patching",
    "LatentGrid": "soraxla/core/types soraxla/types",
    "DiTConfig": "soraxla/models/dit/config soraxla/models/config",
    "OptimConfig": "soraxla/training/optim soraxla/optim",
    "DiTStepConfig": "soraxla/training/dit_step soraxla/training/steps",
    "dit_init": "soraxla/training/dit_step soraxla/training/steps",
    "dit_step": "soraxla/training/dit_step soraxla/training/steps",
    "jit": "soraxla/parallel/compiler soraxla/compiler",
}
_OLD_NAMES = {
    "PackConfig": "PackSpec",
    "OptimConfig": "OptimSettings",
    "DiTStepConfig": "DiTStep",
}
# 40 pictures of 8 × 8 tokens with 8 words each: a step of the model of worlds.
PICTURES, SIDE, WORDS = 40, 8, 8
MODEL: dict[str, Any] = {
    "layers": 6,
    "width": 192,
    "heads": 3,
    "mlp_width": 768,
    "patch": (1, 1, 1),
    "dtype": "float32",
    "remat": "none",
}


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


def _visit_field() -> str:
    fields = find("Segment").__dataclass_fields__
    return "visit" if "visit" in fields else "draw"


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


def step() -> Iterator[tuple[str, Case]]:
    """Yields train steps of a small transformer, with AdamW and with Muon too."""
    rng, grid = np.random.default_rng(0), find("LatentGrid")(t=1, h=SIDE, w=SIDE)
    model = find("DiTConfig")(**MODEL)
    pictures = [
        find("Segment")(
            tokens=rng.normal(size=(SIDE * SIDE, 16)).astype(np.float32),
            positions=find("positions")(grid, (1, 1, 1), 0.0),
            text=rng.normal(size=(WORDS, model.text_width)).astype(np.float32),
            **{_visit_field(): i},
            shift=1.0,
        )
        for i in range(PICTURES)
    ]
    budget = {"row_length": PICTURES * SIDE * SIDE, "text_length": PICTURES * WORDS}
    config = find("PackConfig")(**budget, max_segments=PICTURES)
    batch = jax.device_put(find("pack")([pictures], config))
    for name, rate in (("AdamW", None), ("Muon", 8e-3)):
        optim = find("OptimConfig")(muon_learning_rate=rate)
        cfg = find("DiTStepConfig")(model=model, optim=optim)
        states = [find("jit")(functools.partial(find("dit_init"), cfg))()]
        update = find("jit")(
            functools.partial(find("dit_step"), cfg=cfg), donate_argnums=0
        )

        def run(states=states, update=update) -> Any:
            states[0], metrics = update(states[0], batch)
            return jax.block_until_ready(metrics)

        yield name, (run, lambda metrics: {"loss": np.asarray(metrics["loss"])})


def main(what: str, *arguments: str) -> None:
    cases = dict({"loader": loader, "step": step}[what](*arguments))
    serve(cases, {"jax": jax.__version__, "clock": clock.__doc__})


if __name__ == "__main__":
    main(*sys.argv[1:])
