"""The training loop of docs/tour.md runs, and is as short as the page says."""

import re
from pathlib import Path

import pytest

from tests.data_pipelines.datasets import write_dataset

PAGE = Path(__file__).parent.parent / "docs" / "tour.md"
QUICK = {"xla_backend_optimization_level": 0}
SMALL = {
    '"my_dataset"': "DATASET",
    '"xs", **sizes': '"debug", layers=1, dtype="float32", **sizes',
    "row_length=1024, text_length=512, max_segments=16": (
        "row_length=64, text_length=32, max_segments=4"
    ),
    "warmup_steps=20": "learning_rate=1e-2, warmup_steps=2",
    "donate_argnums=0": "donate_argnums=0, compiler_options=QUICK",
    "static_argnums=0": "static_argnums=0, compiler_options=QUICK",
    "range(200)": "range(3)",
}


@pytest.mark.slow
def test_the_loop_of_the_tour_trains(tmp_path, capsys):
    runnable = r"<!-- runnable -->\n```python\n(.*?)```"
    [block] = re.findall(runnable, PAGE.read_text("utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 40
    for whole, small in SMALL.items():
        assert block.count(whole) == 1, whole
        block = block.replace(whole, small)
    names = {"DATASET": write_dataset(tmp_path / "data"), "QUICK": QUICK}
    exec(compile(block, str(PAGE), "exec"), names)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 3 == int(names["state"].step)
    state, step, batch = (names[name] for name in ("state", "step", "batch"))
    for _ in range(50):  # the same visits: the same noise and the same times
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < 0.8 * losses[-1]
