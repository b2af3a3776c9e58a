"""The validation loss: the training's own, of clips that it does not see."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from data_pipelines.loader import segments, segments_of
from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.core.errors import UserError
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.diffusion.process import Process, Purpose
from soraxla.evals.denoising import Triple, denoising_errors
from soraxla.evals.evaluator import EvaluationContext
from soraxla.evals.metrics.metric import bootstrap
from soraxla.evals.val_loss import ValLoss, size_classes, stratified_times
from soraxla.models import dit
from soraxla.models.dit.config import DiTConfig
from soraxla.packing.conditioning import ConditioningMixture
from soraxla.packing.pack import PackConfig, pack, unpack
from soraxla.packing.schedule import visits_of_share
from soraxla.parallel.mesh import MeshConfig, make_mesh, one_device, put_tree
from soraxla.training.dit_experiment import dit_experiment
from soraxla.training.dit_step import DiTStepConfig, dit_error
from soraxla.training.experiment import DiTTrainingConfig, VAETrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.vae_step import VAEStepConfig
from tests import tiny
from tests.data_pipelines.datasets import write_dataset

MODEL = DiTConfig(
    layers=1,
    width=16,
    heads=2,
    mlp_width=16,
    latent_channels=4,
    text_width=8,
    text_refiner_layers=0,
    dtype="float32",
    remat="none",
)
STEP = DiTStepConfig(model=MODEL)
SPEC = PackConfig(row_length=32, text_length=12, max_segments=6)
SHIFT = partial(time_shift, "auto")
EVERY = ValLoss(every=1, bins=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_dataset(tmp_path_factory.mktemp("val") / "data"))


@pytest.fixture(scope="module")
def held_out(dataset):
    """Two pictures, and clips of 18, 12 and 20 tokens."""
    return dataset.subset(np.array([0, 1, 2, 3, 6]))


@pytest.fixture(scope="module")
def clips(held_out):
    return segments(held_out, SHIFT, MODEL.rope_fps)


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soraxla.evals.denoising.jit", tiny.quick)
        yield


@pytest.fixture(scope="module")
def params():
    return tiny.dit_params(MODEL)


def context(params, held_out, mesh=None, **parts):
    parts = {
        **{"model": MODEL, "process": Process(), "pack": SPEC, "step": 1, "seed": 0},
        **{"workdir": Path(), "mesh": mesh or one_device(), **parts},
    }
    return EvaluationContext(params=params, held_out=held_out, **parts)


def measure(*arguments, evaluator=EVERY, **parts):
    of = context(*arguments, **parts)
    with jax.set_mesh(of.mesh):
        return evaluator.run(of)


@pytest.fixture(scope="module")
def found(params, held_out):
    return measure(params, held_out)


def values(metrics):
    return [metric.value for metric in metrics.values()]


# --- One number --------------------------------------------------------------------


@pytest.mark.slow
def test_an_error_is_the_training_loss_of_the_clip(params, clips):
    """At one time, and with an evaluation's noise."""
    errors, _ = denoising_errors(
        params, MODEL, Process(), [Triple(clips[1], 0.25)], SPEC
    )
    error = tiny.quick(partial(dit_error, cfg=STEP, purpose=Purpose.EVAL))
    batch = pack([[replace(clips[1], visit=0)]], SPEC)
    t_BS = np.full((1, SPEC.max_segments), 0.25, np.float32)
    total, weight = error(params, batch, t_BS)
    np.testing.assert_allclose(errors, [total / weight], rtol=1e-5)


@pytest.mark.slow
def test_condition_tokens_are_clean_and_do_not_count(params, held_out):
    [given, *_] = given_a_first_frame(held_out)
    errors, _ = denoising_errors(params, MODEL, Process(), [Triple(given, 0.25)], SPEC)
    error = tiny.quick(partial(dit_error, cfg=STEP, purpose=Purpose.EVAL))
    t_BS = np.full((1, SPEC.max_segments), 0.25, np.float32)
    total, weight = error(params, pack([[replace(given, visit=0)]], SPEC), t_BS)
    np.testing.assert_allclose(errors, [total / weight], rtol=1e-5)


def given_a_first_frame(held_out):
    visits = visits_of_share(held_out.sizes, SPEC, "first")
    return segments_of(held_out, visits, SHIFT, MODEL.rope_fps)


def test_every_task_of_the_mixture_is_measured_on_clips_that_have_it(
    monkeypatch, held_out
):
    seen = []

    def errors(params, model, process, triples, *_, **__):
        seen.append([clip for clip, _ in triples[::2]])
        return np.ones(len(triples)), None

    monkeypatch.setattr("soraxla.evals.val_loss.denoising_errors", errors)
    mixture = ConditioningMixture(none=0.5, first=0.3, tail=0.2)
    found = measure(None, held_out, pack=replace(SPEC, mixture=mixture))
    moving = given_a_first_frame(held_out)
    assert found["task_first"].n == len(moving) == 3
    assert "task_tail" not in found  # no sample of this dataset has an end
    assert [c.condition_mask.sum() for c in seen[1]] == [
        c.condition_mask.sum() for c in moving
    ]
    assert all(0 < c.condition_mask.sum() < len(c.tokens) for c in seen[1])
    few = replace(EVERY, task_clips=2)
    found = measure(None, held_out, evaluator=few, pack=replace(SPEC, mixture=mixture))
    assert found["task_first"].n == 2
    none = replace(EVERY, task_clips=0)
    found = measure(None, held_out, evaluator=none, pack=replace(SPEC, mixture=mixture))
    assert not any(name.startswith("task") for name in found)


def test_cells_are_of_every_task_class_and_bin(monkeypatch, held_out):
    """Errors are numbered, so each cell shows whose mean it is."""
    monkeypatch.setattr(
        "soraxla.evals.val_loss.denoising_errors",
        lambda *arguments, **_: (np.arange(len(arguments[3])), None),
    )
    pack = replace(SPEC, mixture=ConditioningMixture(none=0.5, first=0.5))
    found = measure(None, held_out, evaluator=replace(EVERY, cells=True), pack=pack)
    bins, classes = ("t_0.00_0.50", "t_0.50_1.00"), ("short_clips", "long_clips")
    names = {f"{c}/{t}" for c in ("pictures", *classes) for t in bins}
    names |= {f"task_first/{c}/{t}" for c in classes for t in bins}
    assert names == {name for name in found if "/" in name}
    # Samples 0 and 4 are pictures, 1 and 2 short clips; each has two numbers.
    assert found["pictures/t_0.50_1.00"].value == np.mean([1, 9])
    assert found["short_clips/t_0.00_0.50"].value == np.mean([2, 4])
    assert not any("/" in name for name in measure(None, held_out))


def test_an_error_counts_as_in_training(monkeypatch, held_out):
    """An x0-prediction's counts as the velocity's that it implies."""
    monkeypatch.setattr(
        "soraxla.evals.val_loss.denoising_errors",
        lambda *arguments, **_: (np.ones(len(arguments[3])), None),
    )
    process = Process(prediction="x0")
    found = measure(None, held_out, process=process)
    weight = process.loss_weight(jnp.asarray(stratified_times(5, 2)))
    assert found["loss"].value == pytest.approx(float(weight.mean()))
    assert found["t_0.00_0.50"].value > found["t_0.50_1.00"].value > 1


@pytest.mark.slow
def test_metrics_are_means_of_clips_bins_and_classes(found):
    counts = {name: metric.n for name, metric in found.items()}
    assert counts == {
        **{"loss": 5, "t_0.00_0.50": 5, "t_0.50_1.00": 5},
        **{"pictures": 2, "short_clips": 2, "long_clips": 1},
    }
    value = {name: metric.value for name, metric in found.items()}
    bins = value["t_0.00_0.50"], value["t_0.50_1.00"]
    classes = [value[name] for name in ("pictures", "short_clips", "long_clips")]
    assert value["loss"] == pytest.approx(np.mean(bins))
    assert value["loss"] == pytest.approx(np.average(classes, weights=(2, 2, 1)))
    assert all(m.low <= m.value <= m.high for m in found.values())


@pytest.mark.slow
def test_equal_parameters_have_equal_losses_in_every_training(found, params, held_out):
    assert measure(params, held_out, step=7, seed=3) == found


@pytest.mark.slow
def test_a_clip_is_measured_as_if_it_were_packed_alone(params, clips):
    triples = [Triple(clip, 0.1 + 0.2 * i) for i, clip in enumerate(clips)]
    together, _ = denoising_errors(params, MODEL, Process(), triples, SPEC)
    alone, _ = denoising_errors(params, MODEL, Process(), triples[:1], SPEC)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-5)


@pytest.mark.slow
def test_eight_devices_measure_as_one_does(found, params, held_out):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    parts = put_tree(jax.device_get(params), dit.RULES, mesh)
    other = measure(parts, held_out, mesh)
    np.testing.assert_allclose(values(other), values(found), rtol=1e-5)
    assert [m.n for m in other.values()] == [m.n for m in found.values()]


def test_a_clip_longer_than_a_row_keeps_its_beginning(held_out):
    short = segments(held_out, SHIFT, MODEL.rope_fps, row_length=14)
    assert [len(clip.tokens) for clip in short] == [4, 12, 12, 12, 2]


@pytest.mark.slow
def test_the_loss_falls_as_predictions_get_better(clips):
    """From predicting 0 to predicting the mean of flow ε − x0, where x0 is 2."""
    clips = [replace(clip, tokens=np.full_like(clip.tokens, 2)) for clip in clips]
    triples = [Triple(clip, 0.5) for clip in clips]
    before = jax.tree.map(jnp.zeros_like, tiny.dit_params(MODEL))
    after = before | {"head": before["head"] | {"bias": jnp.full(16, -2.0)}}
    (first, scales), (then, _) = (
        denoising_errors(params, MODEL, Process(), triples, SPEC)
        for params in (before, after)
    )
    np.testing.assert_allclose(first, scales, rtol=1e-5)
    assert np.mean(first) == pytest.approx(5, rel=0.2)
    assert np.mean(then) == pytest.approx(1, rel=0.2)


# --- Its parts ---------------------------------------------------------------------


def test_every_bin_is_filled_evenly():
    times = stratified_times(7, 5)
    for place, column in enumerate(times.T):
        np.testing.assert_allclose(
            np.sort(column), (place + (np.arange(7) + 0.5) / 7) / 5, rtol=1e-5
        )
    assert len({tuple(np.argsort(column)) for column in times.T}) > 1


def test_classes_part_the_clips(clips):
    found = {name: list(members) for name, members in size_classes(clips).items()}
    assert found == {
        "pictures": [True, False, False, False, True],
        "short_clips": [False, True, True, False, False],
        "long_clips": [False, False, False, True, False],
    }
    pictures = size_classes([clips[0], clips[4]])
    assert pictures["pictures"].all() and not pictures["long_clips"].any()


def test_the_interval_narrows_with_the_number_of_clips():
    rng = np.random.default_rng(1)
    few, many = (bootstrap(rng.normal(size=n)) for n in (20, 2000))
    assert few.low < few.value < few.high and few.n == 20
    assert many.high - many.low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.1)
    assert bootstrap(np.ones(1)) == bootstrap(np.ones(1))


# --- What it needs -----------------------------------------------------------------


def training(share=0.0, evaluators=None):
    loop = LoopConfig(steps=1, evaluators=evaluators or {})
    return DiTTrainingConfig(step=STEP, pack=SPEC, loop=loop, eval_share=share)


def test_without_held_out_clips_it_is_refused_at_once():
    with pytest.raises(UserError, match=r"val_loss .*: set eval_share") as error:
        training(evaluators={"val_loss": {"every": 5}})
    assert "\n" not in str(error.value)
    assert training(0.1, {"val_loss": {"every": 5}}).loop.due(5)
    for unused in (None, {"every": 0}):
        assert not training(evaluators={"val_loss": unused}).loop.due(5)


def test_a_vae_has_none():
    loop = LoopConfig(steps=1, evaluators={"val_loss": {"every": 5}})
    with pytest.raises(UserError, match="val_loss measures no vae; set it to None"):
        VAETrainingConfig(
            step=VAEStepConfig(model=tiny.VAE),
            windows=WindowConfig(
                shapes=(WindowShape(frames=1, height=16, width=16, batch=1),)
            ),
            loop=loop,
        )


def test_a_training_measures_its_ema_on_clips_that_it_does_not_see(dataset):
    experiment = dit_experiment(training(0.4), dataset, None, mesh=one_device())
    trees = {"params": {"of": "params"}, "ema": {"of": "ema"}}
    state = jax.eval_shape(experiment.init)._replace(**trees)
    assert experiment.context is not None
    of = experiment.context(state, step=3, workdir=Path("runs"))
    assert (of.params, of.step, of.workdir) == ({"of": "ema"}, 3, Path("runs"))
    assert of.held_out.sources() == ["sample_0.mp4", "sample_4.mp4"]
    assert len(of.dataset) == len(dataset)
    assert experiment.settings["eval_share"] == 0.4
    unseen = {str(clip.tokens[0]) for clip in segments(of.held_out, SHIFT, 16.0)}
    batch = next(iter(experiment.batches))
    (row,) = unpack(batch.latents, batch.segment_ids)
    assert row and not unseen & {str(clip[0]) for clip in row}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_a_number_below_one(share):
    with pytest.raises(UserError, match="eval_share is"):
        training(share)
