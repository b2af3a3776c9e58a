"""The folder of the best EMA: what it holds, and when it is replaced."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.checkpoints.load import load_transformer, load_vae
from soraxla.checkpoints.model_folder import save_folder
from soraxla.core.config import to_dict
from soraxla.diffusion.process import Process
from soraxla.evals.evaluator import EvaluationContext
from soraxla.evals.val_loss import ValLoss
from soraxla.parallel.mesh import one_device
from soraxla.training.best import keep_best
from soraxla.training.loop import LoopConfig
from soraxla.training.record import SETTINGS
from tests import tiny


@pytest.fixture
def context(tmp_path):
    """A training folder with its record and its VAE."""
    settings = {
        "kind": "dit",
        "step": {"model": to_dict(tiny.DIT), "process": to_dict(Process())},
        "text_encoder": "hashed:16",
        "max_latent_frames": 5,
    }
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    vae = tiny.loaded_vae()
    save_folder(tmp_path / "vae", vae.params, vae.config)
    return EvaluationContext(
        params=tiny.dit_params(),
        model=tiny.DIT,
        mesh=one_device(),
        step=4,
        workdir=tmp_path,
        seed=0,
    )


def kept(context):
    return json.loads((context.workdir / "best" / "best.json").read_text())


def test_the_least_value_keeps_a_model_that_loads(context):
    for step, value in enumerate((3.0, 2.0, 2.5, float("nan"), 2.0)):
        params = {**context.params, "head": {"scale": jnp.full(2, step)}}
        now = replace(
            context, step=step, params=params if step != 1 else context.params
        )
        keep_best(now, "val_loss/loss", value)
    assert kept(context) == {"step": 1, "metric": "val_loss/loss", "value": 2.0}
    loaded = load_transformer(context.workdir / "best")
    assert loaded.model == tiny.DIT
    for name, leaf in context.params["head"].items():
        np.testing.assert_array_equal(loaded.params["head"][name], leaf)
    load_vae(context.workdir / "best" / "vae")
    keep_best(replace(context, step=9), "other/loss", 7.0)  # another metric begins anew
    assert kept(context)["step"] == 9


def test_a_folder_that_was_not_put_in_place_is_at_the_next_step(context, monkeypatch):
    keep_best(context, "val_loss/loss", 2.0)
    with monkeypatch.context() as patch:
        patch.setattr("soraxla.training.best._put_in_place", lambda workdir: None)
        keep_best(replace(context, step=8), "val_loss/loss", 1.0)
    assert kept(context)["step"] == 4
    keep_best(replace(context, step=12), "val_loss/loss", 1.5)
    assert kept(context)["step"] == 8


def test_best_names_an_evaluator_that_runs_and_chooses():
    running = {"val_loss": ValLoss(every=5), "preview": {"every": 5}}
    assert LoopConfig(steps=1, best="val_loss", evaluators=running).best == "val_loss"
    for best, evaluators in (
        ("val_loss", {}),
        ("val_loss", {"val_loss": {"every": 0}}),
        ("preview", running),
    ):
        with pytest.raises(ValueError, match=f"loop.best is '{best}', which is no"):
            LoopConfig(steps=1, best=best, evaluators=evaluators)
