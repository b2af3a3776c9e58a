"""A small training that stops itself, which `test_loop.py` runs in another process.

DATA WORKDIR STEPS die M N sends itself SIGTERM when batch M is drawn, trains on, and
sends itself SIGKILL N batches later.
DATA WORKDIR STEPS compare OTHER trains on to the end, then once more in the folder
OTHER without a stop, and prints whether both ended in the same bits.
"""

import functools
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from data_pipelines.dataset import open_dataset
from data_pipelines.loader import packed_batches
from soraxla.core.config import to_dict
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.models.dit.config import DiTConfig
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step
from soraxla.training.loop import Experiment, LoopConfig, train

CFG = DiTStepConfig(
    model=DiTConfig(
        layers=1,
        width=12,
        heads=2,
        mlp_width=16,
        latent_channels=4,
        text_width=8,
        text_refiner_layers=0,
        dtype="float32",
        remat="none",
    )
)
INIT = jax.jit(functools.partial(dit_init, CFG))
STEP = functools.partial(dit_step, cfg=CFG)
SPEC = PackConfig(row_length=24, text_length=12, max_segments=6)


class Signalling:
    """Passes batches on; sends this process a signal before number `stop`."""

    def __init__(self, batches, number, stop):
        self._batches, self._signal, self._stop = batches, number, stop
        self._drawn = 0

    def __iter__(self):
        self._iterator = iter(self._batches)
        return self

    def __next__(self):
        self._drawn += 1
        if self._drawn == self._stop:
            os.kill(os.getpid(), self._signal)
        return next(self._iterator)

    def get_state(self):
        return self._iterator.get_state()

    def set_state(self, state):
        self._iterator.set_state(state)


def job(data, wrap=lambda batches: batches):
    batches = packed_batches(
        open_dataset(data),
        SPEC,
        seed=CFG.seed,
        batch_rows=2,
        shift=functools.partial(time_shift, "auto"),
    )
    return Experiment(
        settings={"kind": "toy", "step": to_dict(CFG)},
        init=INIT,
        step=STEP,
        batches=wrap(batches),
        unit="tokens",
    )


def main(data, workdir, steps, what, *arguments):
    loop = LoopConfig(steps=int(steps), checkpoint_every=3)
    if what == "die":
        stops = zip((signal.SIGTERM, signal.SIGKILL), arguments, strict=True)
        for number, stop in stops:
            wrap = functools.partial(Signalling, number=number, stop=int(stop))
            train(job(data, wrap), loop, Path(workdir))
        return
    one = train(job(data), loop, Path(workdir))
    other = train(job(data), loop, Path(arguments[0]))
    pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    same = all(np.array_equal(a, b) for a, b in pairs)
    print("identical" if same else "different")


if __name__ == "__main__":
    main(*sys.argv[1:])
