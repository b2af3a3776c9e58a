"""Signals to a training: save and stop, end at once, or trace some steps."""

import functools
import os
import signal

import jax
import pytest

from soraxla.training.loop import LoopConfig, train
from tests.training import toy
from tests.training.test_loop import assert_same, run, saved_steps, steps_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The state after eleven steps without a stop."""
    return run(tmp_path_factory.mktemp("whole"), 11)


def test_sigterm_saves_and_returns(whole, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    stop = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
    state = run(tmp_path, 11, job=toy.job(at={5: stop}))
    assert state.step == 6 and saved_steps(tmp_path)[-1] == 6
    assert steps_of(tmp_path) == list(range(1, 7))
    assert signal.getsignal(signal.SIGTERM) is before
    assert_same(run(tmp_path, 11), whole)


def test_ctrl_c_saves_as_sigterm_does_and_a_second_one_ends_at_once(
    whole, tmp_path, capfd
):
    press = functools.partial(os.kill, os.getpid(), signal.SIGINT)
    job, loop = toy.job(at={5: press}), LoopConfig(steps=11, checkpoint_every=4)
    state = train(job, loop, tmp_path, interrupts=True)
    assert state.step == 6 and saved_steps(tmp_path)[-1] == 6
    assert "saving after this step; again: end at once" in capfd.readouterr().err

    def press_twice():
        press()
        press()

    with pytest.raises(KeyboardInterrupt):
        train(toy.job(at={8: press_twice}), loop, tmp_path, interrupts=True)
    assert saved_steps(tmp_path)[-1] == 8
    assert_same(run(tmp_path, 11), whole)


def traced_steps(workdir):
    """The numbers of the steps in every trace of a training folder, oldest first."""
    traces = sorted((workdir / "profile").glob("plugins/profile/*/*.xplane.pb"))
    return [
        sorted(
            dict(event.stats)["step_num"]
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        )
        for path in traces
    ]


@pytest.mark.slow
def test_sigusr1_traces_the_next_five_steps_and_changes_nothing(whole, tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    ask = functools.partial(os.kill, os.getpid(), signal.SIGUSR1)
    assert_same(run(tmp_path, 11, job=toy.job(at={3: ask})), whole)
    assert traced_steps(tmp_path) == [[5, 6, 7, 8, 9]]  # batch 3 is drawn in step 4
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.slow
def test_a_trace_that_the_end_cuts_short_is_written(tmp_path):
    ask = functools.partial(os.kill, os.getpid(), signal.SIGUSR1)
    run(tmp_path, 6, job=toy.job(at={3: ask}))
    assert traced_steps(tmp_path) == [[5, 6]]
