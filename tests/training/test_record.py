"""The record of a training: what a resume may change, and how a refusal reads."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import pytest

from soraxla.checkpoints.training_folder import SETTINGS
from soraxla.core.config import leaves, to_dict
from soraxla.core.errors import UserError
from soraxla.core.older_settings import BEFORE, filled
from soraxla.packing.schedule import SCHEDULE_VERSION
from soraxla.training.experiment import DiTTrainingConfig, VAETrainingConfig
from soraxla.training.optim import OptimConfig, optimizer
from soraxla.training.record import (
    RESUME,
    check_record,
    recorded_init,
    resumed,
    write_record,
)

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
RATE, DECAY = "step.optim.learning_rate", "step.optim.ema_decay"


@dataclass(frozen=True, kw_only=True)
class Optim:
    learning_rate: float = 0.1
    ema_decay: float = 0.9


@dataclass(frozen=True, kw_only=True)
class Step:
    optim: Optim = field(default_factory=Optim)


@dataclass(frozen=True, kw_only=True)
class Config:
    step: Step = field(default_factory=Step)
    accumulate: int = 1


def settings(**optim):
    made = to_dict(Config(step=Step(optim=Optim(**optim))))
    return {"kind": "vae", "schedule": SCHEDULE_VERSION, "data": "a", **made}


@pytest.fixture
def workdir(tmp_path):
    write_record(tmp_path, settings(), Config, step=0)
    return tmp_path


def recorded(workdir):
    return json.loads((workdir / SETTINGS).read_text())


def refusal(workdir, other, cls=Config, change=()):
    with pytest.raises(UserError) as error:
        check_record(workdir, other, cls, change)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_refusal_names_every_setting_and_the_ways_on(workdir):
    line = refusal(workdir, settings(learning_rate=0.2, ema_decay=0.5))
    assert f"{RATE} = 0.1, not 0.2" in line and f"{DECAY} = 0.9, not 0.5" in line
    assert f"--change {RATE}=0.2" in line and f"--change {DECAY}" not in line
    assert f"--init {workdir} --workdir NEW" in line
    assert "--change" not in refusal(workdir, settings(ema_decay=0.5))
    check_record(workdir, {**settings(), "accumulate": 2}, Config)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "b", "max_latent_frames": 9}, "another dataset"),
        ({"init": {"sha256": "b", "folder": "there"}}, "began without a model"),
        ({"schedule": 1}, "another schedule"),
        ({"kind": "dit"}, "trains a vae, not a dit"),
    ],
)
def test_other_data_or_another_model_is_named_as_such(workdir, other, message):
    line = refusal(workdir, {**settings(learning_rate=9.0), **other})
    assert message in line and RATE not in line and "max_latent_frames" not in line


MIXED = {"data": ["a", "b"], "data_weights": [0.7, 0.3]}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "a", "data_weights": None}, "on 2 datasets, not 1; name the same"),
        ({"data": ["a", "c"]}, "on another dataset than --data 2 of 2"),
        (
            {"data_weights": [0.5, 0.5]},
            "with the weights 0.7 and 0.3 of its datasets, not 0.5 and 0.5; name the",
        ),
    ],
)
def test_another_mixture_is_named(workdir, other, message):
    write_record(workdir, {**settings(), **MIXED}, Config, step=3)
    check_record(workdir, {**settings(), **MIXED}, Config)
    line = refusal(workdir, {**settings(), **MIXED, **other})
    assert message in line and "\n" not in line


def test_what_follows_from_data_is_no_setting(workdir):
    check_record(workdir, {**settings(), "max_latent_frames": 9, "new": 1}, Config)


def test_a_setting_that_is_added_later_refuses_no_older_training(workdir):
    """It has its default, or the value in effect before it was a setting."""

    @dataclass(frozen=True, kw_only=True)
    class Later(Optim):
        nesterov: bool = False
        eps: float = field(default=1e-6, metadata={BEFORE: 1e-8})

    @dataclass(frozen=True, kw_only=True)
    class LaterStep:
        optim: Later = field(default_factory=Later)

    @dataclass(frozen=True, kw_only=True)
    class LaterConfig(Config):
        step: LaterStep = field(default_factory=LaterStep)
        extra: LaterStep | None = None

    assert filled(LaterConfig, settings())["step"]["optim"]["eps"] == 1e-8

    def later(**optim):
        made = LaterConfig(step=LaterStep(optim=Later(**optim)))
        return {**settings(), **to_dict(made)}

    check_record(workdir, later(eps=1e-8), LaterConfig)
    line = refusal(workdir, later(eps=1e-6), LaterConfig)
    assert "step.optim.eps = 1e-08, not 1e-06" in line and "nesterov" not in line
    write_record(workdir, later(eps=1e-8), LaterConfig, step=3)
    check_record(workdir, later(eps=1e-8), LaterConfig)


def test_a_change_is_recorded_and_holds_on(workdir):
    """The first command, repeated, goes on with the changed value."""
    config = {"kind": "vae", "step": {"optim": {"learning_rate": 0.1}}}
    for step, value in ((6, 0.2), (9, 0.3)):
        made = resumed(config, workdir, {RATE: value})
        assert made["step"]["optim"]["learning_rate"] == value
        check_record(workdir, settings(learning_rate=value), Config, [RATE])
        write_record(workdir, settings(learning_rate=value), Config, [RATE], step=step)
    assert recorded(workdir)["step"]["optim"]["learning_rate"] == 0.3
    assert recorded(workdir)["changes"] == [
        {"step": 6, "key": RATE, "old": 0.1, "new": 0.2},
        {"step": 9, "key": RATE, "old": 0.2, "new": 0.3},
    ]
    assert resumed(config, workdir, {})["step"]["optim"]["learning_rate"] == 0.3
    assert resumed({"kind": "vae"}, workdir, {})["step"]["optim"] == {
        "learning_rate": 0.3
    }
    other = {"kind": "vae", "step": {"optim": {"learning_rate": 0.5}}}
    assert resumed(other, workdir, {}) == other  # `check_record` refuses it
    write_record(workdir, settings(learning_rate=0.3), Config, step=12)
    assert len(recorded(workdir)["changes"]) == 2
    assert config["step"]["optim"]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({DECAY: 0.5}, f"--change {DECAY}: may not change.*step.optim.clip_norm"),
        ({"loop.steps": 5}, "--change loop.steps"),
        ({"step.optim.muon_learning_rate": 0.1}, "Muon's state cannot be added"),
    ],
)
def test_only_what_the_table_names_may_be_changed(workdir, change, message):
    with pytest.raises(UserError, match=message):
        resumed({"kind": "vae"}, workdir, change)


def test_there_must_be_a_training_to_change(tmp_path):
    with pytest.raises(UserError, match="holds no training that could go on; use --se"):
        resumed({"kind": "vae"}, tmp_path / "none", {RATE: 0.1})


def test_the_model_that_a_training_began_from_is_found(workdir, tmp_path):
    assert recorded_init(workdir) is None is recorded_init(tmp_path / "none")
    begun = {**settings(), "init": {"folder": "there", "sha256": "b"}}
    write_record(workdir, begun, Config, step=0)
    assert recorded_init(workdir) == Path("there")


def test_a_change_keeps_the_state_of_the_optimizer():
    """A checkpoint of one value restores into the optimizer of another."""
    params = {"blocks": {"mlp": {"kernel": jax.numpy.ones((1, 2, 2))}}}
    other = {
        "learning_rate": 0.5,
        "warmup_steps": 0,
        "decay_steps": 200,
        "weight_decay": 0.1,
        "clip_norm": float("inf"),
    }
    for base in (OptimConfig(), OptimConfig(muon_learning_rate=0.1)):
        expected = jax.tree.structure(optimizer(base).init(params))
        for name, value in other.items():
            changed = optimizer(replace(base, **{name: value})).init(params)
            assert jax.tree.structure(changed) == expected, name


def test_the_table_is_of_settings_and_in_the_docs():
    known = {
        key for cls in (DiTTrainingConfig, VAETrainingConfig) for key, *_ in leaves(cls)
    }
    for key in RESUME:
        assert any(f"{k}.".startswith(f"{key}.") for k in known), key
    section = DOCS.read_text().split("## Stopping and continuing")[1]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", section, re.MULTILINE)
    found = {
        key: "change" if "`--change" in how else "free"
        for keys, how in rows
        for key in re.findall("`(.*?)`", keys)
    }
    assert found == RESUME
