"""A small training over a mesh, for `test_mesh_runs.py`; in one process or in several.

DATA WORKDIR STEPS MESH DEVICES [COORDINATOR PROCESSES ID]; MESH is a dict of sizes.
"""

import ast
import functools
import socket
import sys
from pathlib import Path

import jax

from data_pipelines.dataset import open_dataset
from data_pipelines.loader import packed_batches
from soraxla.core.config import to_dict
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.packing.pack import PackConfig
from soraxla.parallel.cluster import ProcessGroup
from soraxla.parallel.mesh import (
    PACKED_AXES,
    MeshConfig,
    host_rows,
    make_mesh,
    one_device,
    put_rows,
)
from soraxla.parallel.rendezvous import join
from soraxla.training.dit_step import DiTStepConfig, dit_init, dit_step
from soraxla.training.loop import Experiment, LoopConfig, train
from soraxla.training.optim import OptimConfig

CFG = DiTStepConfig(
    model=DiTConfig(
        layers=2,
        width=32,
        heads=4,
        mlp_width=32,
        latent_channels=4,
        text_width=8,
        dtype="float32",
    ),
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=2),
)
SPEC = PackConfig(row_length=32, text_length=12, max_segments=6)
ROWS = 8


def job(data, mesh) -> Experiment:
    batches = packed_batches(
        open_dataset(data),
        SPEC,
        seed=CFG.seed,
        batch_rows=ROWS,
        shift=functools.partial(time_shift, "auto"),
        host_rows=host_rows(ROWS, mesh),
    )
    return Experiment(
        settings={"kind": "dit", "step": to_dict(CFG)},
        init=functools.partial(dit_init, CFG),
        step=functools.partial(dit_step, cfg=CFG),
        batches=batches,
        unit="tokens",
        mesh=mesh,
        rules=dit.RULES,
        put=functools.partial(put_rows, axes=PACKED_AXES, mesh=mesh),
    )


def run(data, workdir, steps, mesh=None, *, checkpoint_every=1000):
    """Trains over the mesh, by default of one device."""
    settings = None if mesh is None else MeshConfig(**mesh)
    chosen = one_device() if settings is None else make_mesh(settings)
    loop = LoopConfig(steps=steps, checkpoint_every=checkpoint_every)
    return train(job(data, chosen), loop, Path(workdir), interrupts=True)


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def main(data, workdir, steps, mesh, devices, *group):
    jax.config.update("jax_num_cpu_devices", int(devices))
    if group:
        coordinator, processes, process = group
        join(ProcessGroup(coordinator, int(processes), int(process)))
    run(data, workdir, int(steps), ast.literal_eval(mesh), checkpoint_every=4)


if __name__ == "__main__":
    main(*sys.argv[1:])
