"""The loop: resumed exactly, killed at any time, and clear about what is wrong."""

import builtins
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.checkpoints.training_folder import SETTINGS
from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.evals.evaluator import Evaluator
from soraxla.evals.evaluators import EVALUATORS
from soraxla.evals.metrics.metric import Metric
from soraxla.training.loop import LoopConfig, train
from soraxla.training.saving import Checkpoints
from tests.data_pipelines.datasets import write_dataset
from tests.training import toy

ROOT = Path(__file__).parents[2]


def run(workdir, steps, *, job=None, every=4, **loop):
    settings = LoopConfig(steps=steps, checkpoint_every=every, **loop)
    with jax.transfer_guard("disallow"):  # what goes to a device is put there
        return train(job or toy.job(), settings, workdir)


def assert_same(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def steps_of(workdir):
    return [record["step"] for record in records(workdir)]


def saved_steps(workdir):
    names = [p.name for p in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(state, folder) of 11 steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, 11), folder


# --- Exactly the same ------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 6])
def test_k_steps_and_the_rest_are_all_steps(whole, tmp_path, k):
    """Params, EMA, moments, counters and data: bit for bit; k on and off the grid."""
    assert run(tmp_path, k).step == k
    assert_same(run(tmp_path, 11), whole[0])
    assert steps_of(tmp_path) == list(range(1, 12))
    same = ("step", "loss", "grad_norm", "skipped", "skipped_in_a_row")
    for one, other in zip(records(tmp_path), records(whole[1]), strict=True):
        assert [one[name] for name in same] == [other[name] for name in same]


def test_checkpoints_hold_the_state_of_their_step(whole, tmp_path):
    """A later step, which reuses the state's memory, must not reach into a save."""
    folder = tmp_path / "run"
    run(folder, 11, every=1, keep=20)
    assert saved_steps(folder) == list(range(1, 12))
    for step in (3, 8):
        newer = [s for s in saved_steps(folder) if s > step]
        shutil.copytree(folder, tmp_path / f"back_{step}")
        for s in newer:
            shutil.rmtree(tmp_path / f"back_{step}" / "checkpoints" / str(s))
        assert_same(run(tmp_path / f"back_{step}", 11), whole[0])


def test_the_newest_checkpoints_are_kept_and_the_last_step_has_one(whole):
    assert saved_steps(whole[1]) == [8, 11]


def test_a_finished_run_started_again_changes_nothing(whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "again")
    assert_same(run(tmp_path / "again", 11), whole[0])
    assert steps_of(tmp_path / "again") == list(range(1, 12))


def test_what_a_kill_leaves_behind_is_cleared(whole, tmp_path):
    """Half a checkpoint, records of steps to be done again, half a line."""
    run(tmp_path, 8)
    checkpoints = tmp_path / "checkpoints"
    half = checkpoints / "12.orbax-checkpoint-tmp"
    shutil.copytree(checkpoints / "8", half)
    next(p for p in half.rglob("*") if p.is_file()).unlink()
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": 9, "loss": 0.0}) + '\n{"step": 10, "lo')
    assert_same(run(tmp_path, 11), whole[0])
    assert steps_of(tmp_path) == list(range(1, 12))
    assert run(tmp_path, 12).step == 12  # over the half-written one
    assert saved_steps(tmp_path)[-1] == 12


def test_a_checkpoint_is_not_ahead_of_its_records(tmp_path):
    """Killed right after a save, the run still has a record of every step."""
    seen = []

    class Killed(BaseException):
        pass

    def look():
        seen.append(steps_of(tmp_path))
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path, 11, job=toy.job(at={8: look}))
    assert seen == [list(range(1, 9))]


def script(folder, *arguments):
    """`killed_run.py`, compiled quickly and once for all its processes."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    start = [sys.executable, "-m", "tests.training.killed_run"]
    return subprocess.run(
        [*start, str(folder / "data"), str(folder / "run"), *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_training_ends_like_one_never_killed(tmp_path):
    """The transformer on packed batches, stopped and killed at random steps."""
    write_dataset(tmp_path / "data")
    stops = random.randint(2, 9), random.randint(2, 12)
    died = script(tmp_path, 24, "die", *stops)
    assert died.returncode == -signal.SIGKILL, (stops, died.stderr[-3000:])
    done = script(tmp_path, 24, "compare", tmp_path / "never_killed")
    assert done.returncode == 0, (stops, done.stderr[-3000:])
    assert done.stdout.split() == ["identical"], stops
    assert steps_of(tmp_path / "run") == list(range(1, 25)), stops


# --- Broken steps -----------------------------------------------------------------


def test_nineteen_broken_steps_in_a_row_are_survived(tmp_path):
    state = run(tmp_path, 25, job=toy.job(broken=range(3, 22)))
    assert state.step == 25 and state.skipped == 19 and state.skipped_in_a_row == 0
    broken = [record["step"] for record in records(tmp_path) if record["loss"] is None]
    assert broken == list(range(4, 23))
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text  # which is no JSON


def test_twenty_broken_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="20 steps in a row") as error:
        run(tmp_path, 60, job=toy.job(broken=range(3, 60)))
    assert "\n" not in str(error.value) and "step 23" in str(error.value)
    assert steps_of(tmp_path)[-1] == 23
    assert 3 < saved_steps(tmp_path)[-1] <= 23


# --- Bad input --------------------------------------------------------------------


def one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"step": {"rate": 0.1}}, r"step\.rate = 0\.05, not 0\.1"),
        ({"seed": 1}, r"seed = None, not 1; leave that out, or start a new"),
        ({"step": {"rate": 0.1}, "seed": 1}, r"seed = .*, step\.rate = 0\.05, not"),
        ({"step": {}}, r"step\.rate = 0\.05, not None"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path, other, message):
    run(tmp_path, 1)
    before = (tmp_path / SETTINGS).read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        run(tmp_path, 2, job=toy.job(settings=other))
    one_line(error)
    assert (tmp_path / SETTINGS).read_bytes() == before


def test_loop_settings_may_change(tmp_path):
    run(tmp_path, 1, job=toy.job(settings={"loop": {"steps": 1}}))
    assert run(tmp_path, 2, job=toy.job(settings={"loop": {"steps": 2}})).step == 2
    assert json.loads((tmp_path / SETTINGS).read_text())["loop"] == {"steps": 2}


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"checkpoint_every": 0}, {"keep": 0}],
)
def test_absurd_loop_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"loop.{next(iter(wrong))} is"):
        LoopConfig(**{"steps": 1, **wrong})


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_data(folder):
    for path in (folder / "state").rglob("d/*"):
        path.unlink()


def remove_plan(folder):
    shutil.rmtree(folder / "plan")


# Orbax closes its event loop while files are read that it no longer waits for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, remove_data, remove_plan])
def test_a_damaged_checkpoint_is_one_clear_line(whole, tmp_path, damage):
    """With its checksums or, killed before they were written, without."""
    run(tmp_path, 2, every=1)
    damage(tmp_path / "checkpoints" / "2")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"checkpoints/2: .*remove it") as error:
            run(tmp_path, 3)
        one_line(error)
        (tmp_path / "checksums" / "2.0.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    assert_same(run(tmp_path, 11), whole[0])  # from the one before


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, 1)
    with pytest.raises(ValueError, match="another configuration") as error:
        run(tmp_path, 2, job=toy.job(width=200))
    one_line(error)


def test_a_folder_without_checkpoints_has_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="no whole checkpoint; train first") as error:
        checkpoints.restore(jax.eval_shape(toy.init))
    one_line(error)
    checkpoints.close()


# --- Evaluators -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sum(Evaluator):
    """The sum of the parameters it sees."""

    chooses = "sum"

    def run(self, context):
        total = float(jnp.sum(context.params["layer"]["w"]))
        return {"sum": Metric(total, total - 1.0, math.inf, context.step)}


@dataclass(frozen=True, kw_only=True)
class Failing(Evaluator):
    """Raises one of the errors that an evaluator may meet."""

    error: str = "FileNotFoundError"

    def run(self, context):
        raise vars(builtins)[self.error](f"step {context.step}: it is not there")


@pytest.fixture
def table(monkeypatch):
    for name, evaluator in (("sum", Sum), ("failing", Failing)):
        monkeypatch.setitem(EVALUATORS, name, evaluator)


def evaluations(workdir, name):
    return {r["step"]: r[name] for r in records(workdir) if name in r}


def test_evaluators_measure_the_ema_at_their_steps(whole, table, tmp_path):
    """Each of them, beside the steps' own records, and without changing the run."""
    state = run(tmp_path, 11, evaluators={"sum": {"every": 4}, "preview": None})
    assert_same(state, whole[0])
    found = evaluations(tmp_path, "eval/sum/sum")
    assert list(found) == [4, 8] and steps_of(tmp_path) == sorted([*range(1, 12), 4, 8])
    for step, metric in found.items():
        ema = run(tmp_path / f"{step}", step).ema["layer"]["w"]
        total = float(jnp.sum(ema))
        assert metric == {"value": total, "low": total - 1, "high": None, "n": step}
    assert not (tmp_path / "previews").exists()


def test_the_best_step_is_offered_for_keeping(table, tmp_path, monkeypatch):
    offered = []
    monkeypatch.setattr(
        "soraxla.training.loop.keep_best",
        lambda now, metric, value: offered.append((now.step, metric, value)),
    )
    evaluators = {"sum": {"every": 4}, "failing": {"every": 8}}
    run(tmp_path, 8, best="sum", evaluators=evaluators)
    found = evaluations(tmp_path, "eval/sum/sum")
    values = [(step, "sum/sum", metric["value"]) for step, metric in found.items()]
    assert offered == values and len(values) == 2


@pytest.mark.parametrize("error", ["FileNotFoundError", "MemoryError", "SystemExit"])
def test_a_failing_evaluator_ends_no_training(whole, table, tmp_path, caplog, error):
    evaluators = {"failing": {"every": 3, "error": error}, "sum": {"every": 6}}
    assert_same(run(tmp_path, 11, evaluators=evaluators), whole[0])
    assert list(evaluations(tmp_path, "eval/sum/sum")) == [6]
    logged = [r for r in caplog.records if "'failing' failed" in r.getMessage()]
    assert len(logged) == 3
    assert f"{error}: step 3: it is not there" in logged[0].exc_text


def test_an_interrupt_in_an_evaluator_ends_the_training(table, tmp_path):
    evaluators = {"failing": {"every": 3, "error": "KeyboardInterrupt"}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 11, evaluators=evaluators)


def test_evaluators_may_change_and_a_resume_keeps_their_records(table, tmp_path):
    def job(loop):
        return toy.job(settings={"loop": to_dict(loop)})

    first = LoopConfig(steps=4, evaluators={"sum": {"every": 2}})
    other = LoopConfig(steps=8, evaluators={"sum": None, "failing": {"every": 9}})
    train(job(first), first, tmp_path)
    assert train(job(other), other, tmp_path).step == 8
    assert list(evaluations(tmp_path, "eval/sum/sum")) == [2, 4]
    recorded = json.loads((tmp_path / SETTINGS).read_text())["loop"]
    assert build(LoopConfig, recorded) == other


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        ({"val_los": {"every": 1}}, r"'loop\.evaluators\.val_los'.*'val_loss'"),
        ({"val_loss": {"evry": 1}}, r"val_loss\.evry': did you mean '.*every'"),
        ({"preview": {}}, r"'loop\.evaluators\.preview\.every' is missing"),
        ({"preview": 250}, r"'loop\.evaluators\.preview' is 250, expected a group"),
        ({"preview": {"every": -1}}, "every is -1, expected at least 0"),
        ({"val_loss": {"every": 1, "bins": 0}}, "bins is 0, expected at least 1"),
    ],
)
def test_wrong_settings_of_evaluators_are_one_clear_line(evaluators, message):
    with pytest.raises(UserError, match=message) as error:
        build(LoopConfig, {"steps": 1, "evaluators": evaluators})
    one_line(error)
