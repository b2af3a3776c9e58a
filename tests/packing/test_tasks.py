"""One table names every task, its condition tokens and the share that teaches it."""

from dataclasses import fields

import numpy as np
import pytest

from soraxla.generation import task_inputs
from soraxla.generation.task_inputs import DIRECTIONS
from soraxla.generation.tasks import SAMPLING
from soraxla.packing.conditioning import ConditioningMixture
from soraxla.packing.tasks import SHARES, TASKS, shares_with

CLIP = np.zeros((9, 32, 32, 3), np.uint8)
INPUTS = {
    "Animate": [
        {},
        {"first": CLIP[:1]},
        {"last": CLIP[:1]},
        {"first": CLIP[:1], "last": CLIP[:1]},
    ],
    "Extend": [{"video": CLIP, "direction": direction} for direction in DIRECTIONS],
    "Connect": [{"before": CLIP, "after": CLIP}],
    "Loop": [{}, {"video": CLIP}],
    "Edit": [{"video": CLIP}],
    "Inpaint": [{"video": CLIP, "mask": np.ones((32, 32), bool)}],
    "Outpaint": [{"video": CLIP}],
}


def test_every_class_is_sampled_and_every_row_has_a_class():
    assert {cls.__name__ for cls in SAMPLING} == set(INPUTS)
    found = {
        name
        for cls, inputs in INPUTS.items()
        for values in inputs
        for name in getattr(task_inputs, cls)(**values).names
    }
    assert found == set(TASKS)


def test_shares_are_the_mixture_s_in_the_order_of_its_fields():
    names = [field.name for field in fields(ConditioningMixture)]
    assert names[: len(SHARES)] == list(SHARES)
    assert {task.share for task in TASKS.values()} == set(SHARES)


@pytest.mark.parametrize("share", SHARES)
def test_tasks_of_one_share_have_the_same_condition_tokens(share):
    kinds = {(t.in_place, t.appended) for t in TASKS.values() if t.share == share}
    assert len(kinds) == 1
    [(in_place, appended)] = kinds
    assert share in shares_with(in_place=in_place, appended=appended)


def test_the_help_of_generate_names_the_options_of_every_row(capsys):
    from soraxla.cli.main import main

    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out
    for task in TASKS.values():
        for option in task.options.split():
            assert not option.startswith("--") or option in shown
