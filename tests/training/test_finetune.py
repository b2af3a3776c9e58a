"""Fine-tuning: from the very weights of a folder, in whole or by adapters."""

import functools
import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.load import load_transformer
from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.core.config import build, to_dict
from soraxla.core.trees import named_leaves
from soraxla.diffusion.noise_schedule import sample_times
from soraxla.diffusion.process import Purpose, sample_keys
from soraxla.files.hashing import sha256_of_tree
from soraxla.models.dit import lora
from soraxla.models.dit.config import dit_config
from soraxla.parallel.mesh import one_device
from soraxla.training.dit_experiment import dit_experiment
from soraxla.training.dit_step import DiTStepConfig, dit_error
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.finetune import open_start, settings_of
from soraxla.training.loop import train
from soraxla.training.presets import load_preset, split
from tests import tiny
from tests.data_pipelines.datasets import write_dataset

CONFIG = "finetune_wan"
FAST = {
    "optim": {"learning_rate": 0.02, "warmup_steps": 5, "ema_decay": 0.5},
    # Two layers compile fast; other tests hold the default, all of attention.
    "lora": {"rank": 4, "alpha": 8.0, "targets": ("blocks.self_attn.[qv]",)},
}
QUICK = {"pack": {"row_length": 128, "text_length": 64, "max_segments": 8}}


@functools.cache
def compiled(step, cfg):
    return tiny.quick(functools.partial(step, cfg=cfg))


ERROR = functools.partial(dit_error, purpose=Purpose.NOISE)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Every training of the same settings runs the same program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "soraxla.training.loop.Experiment.step_fn",
            lambda job: compiled(job.step.func, job.step.keywords["cfg"]),
        )
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder: `dit`, with the layers of Wan, and `vae`."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = dit_config(
        "wan_1_3b",
        **{"layers": 2, "width": 24, "heads": 2, "mlp_width": 32, "dtype": "float32"},
        **{"text_width": 8, "latent_channels": 4, "shift": "auto"},
    )
    config = {
        **tiny.loaded_dit().config,
        "model": to_dict(model),
        "text_encoder": "hashed:8",
    }
    save_folder(folder / "dit", tiny.dit_params(model), config)
    save_folder(folder / "vae", tiny.vae_params(), tiny.loaded_vae().config)
    return folder


@pytest.fixture(scope="module")
def dataset(folder, tmp_path_factory):
    """Random samples that the folder's VAE and encoder may have made."""
    path = write_dataset(tmp_path_factory.mktemp("data") / "dataset")
    shutil.copytree(folder / "vae", path / "vae")
    change(path, vae_sha256=sha256_of_folder(folder / "vae"))
    return path


def change(dataset, **values):
    card = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(card | values))


def settings(way, start, **step):
    """`way` of the shipped configuration, at a size for tests."""
    _, config = split(load_preset(f"{CONFIG}:{way}"))
    config["step"] |= {"model": {"remat": "none"}, **step}
    return build(DiTTrainingConfig, settings_of({**config, **QUICK}, start))


def fine_tune(way, start, dataset, workdir, *, steps, **step):
    cfg = settings(way, start, **step)
    job = dit_experiment(
        cfg, open_dataset(dataset), workdir, start=start, mesh=one_device()
    )
    loop = replace(cfg.loop, steps=steps, checkpoint_every=100)
    return train(job, loop, workdir), job, cfg


def assert_same(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_times_may_be_shifted_otherwise_than_a_sampler_s(folder, dataset, tmp_path):
    start = open_start(folder)
    cfg = settings("full", start)
    for shift in (None, 2.0):
        job = dit_experiment(
            replace(cfg, shift=shift),
            open_dataset(dataset),
            tmp_path,
            start=start,
            mesh=one_device(),
        )
        batch = next(iter(job.batches))
        used = np.isin(np.arange(1, batch.shift.shape[1] + 1), batch.segment_ids)
        assert np.all(batch.shift[0, used] == 2.0) == (shift == 2.0)
    with pytest.raises(ValueError, match=r"time shift 0\.0: expected 'auto'"):
        replace(cfg, shift=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        ("lora", "bfloat16"),
        ("full", "float32"),
        ("full", "bfloat16"),
        ("lora", "float32"),
    ],
)
def test_step_0_is_the_model_of_the_folder(folder, dataset, tmp_path, way, dtype):
    """The state before the first step has the folder's weights bit for bit."""
    stored = load_transformer(folder)
    copy = tmp_path / "model"
    save_folder(copy / "dit", stored.params, stored.config, dtype=dtype)
    start = open_start(copy)
    step = FAST if way == "lora" else {}  # one compile for all adapters
    run = tmp_path / "run"
    state, job, cfg = fine_tune(way, start, dataset, run, steps=1, **step)
    fresh, frozen = job.start(), job.frozen
    begun = lora.merged(fresh.ema, frozen and frozen[0], cfg.step.lora)
    loaded = load_transformer(run)
    rounded = jax.tree.map(
        lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32),
        stored.params,
    )
    expected = stored.params if dtype == "float32" else rounded
    assert_same(start.dit.params, expected)
    assert sha256_of_tree(begun) == sha256_of_tree(expected)
    assert state.step == 1 and loaded.model == cfg.step.model
    assert loaded.config["text_encoder"] == "hashed:8"
    # And the first loss is that model's.
    batch = next(iter(job.batches))
    keys = sample_keys(cfg.step.seed, Purpose.TIME, batch.visit)
    times = sample_times(keys, batch.shift)
    record = json.loads((run / "metrics.jsonl").read_text())
    np.testing.assert_allclose(
        record["loss"], error_of(start.dit.params, batch, times, cfg), rtol=1e-6
    )


def error_of(params, batch, times, cfg):
    plain = DiTStepConfig(model=cfg.step.model, seed=cfg.step.seed)
    # From the host: parameters that are placed otherwise would be another program.
    inputs = jax.device_get((params, batch, times))
    total, weight = compiled(ERROR, plain)(*inputs)
    return total / weight


@pytest.fixture(scope="module")
def adapted(folder, dataset, tmp_path_factory):
    """40 steps of LoRA without a stop: state, job, settings, folder, hash of before."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    start = open_start(folder)
    before = sha256_of_tree(start.dit.params)
    return (
        *fine_tune("lora", start, dataset, workdir, steps=40, **FAST),
        workdir,
        before,
    )


@pytest.mark.slow
def test_adapters_alone_are_trained_and_kept(adapted):
    """No state has the size of the base, and the base keeps its bits."""
    state, job, _, _, before = adapted
    (base,) = job.frozen
    assert sha256_of_tree(base) == before == job.settings["init"]["sha256"]
    for tree in (state.params, state.ema):
        names = named_leaves(tree)
        assert len(names) == 4 and all(name[-2:] in (".a", ".b") for name in names)
    kernel = base["blocks"]["self_attn"]["q"]["kernel"].shape
    assert kernel not in [leaf.shape for leaf in jax.tree.leaves(state)]
    b = state.params["blocks"]["self_attn"]["q"]["b"]
    assert np.all(np.any(b != 0, axis=(1, 2))), "a layer that did not learn"


@pytest.mark.slow
def test_adapters_lower_the_loss(adapted):
    """At fixed noise and times that training never saw."""
    _, job, cfg, workdir, _ = adapted
    batch = next(iter(job.batches))
    batch = batch._replace(visit=batch.visit + np.uint32(1 << 20))
    times = jnp.broadcast_to(jnp.linspace(0.1, 0.9, 8)[None], batch.visit.shape)
    before = error_of(job.frozen[0], batch, times, cfg)
    after = error_of(load_transformer(workdir).params, batch, times, cfg)
    assert after < 0.9 * before


@pytest.mark.slow
def test_a_folder_in_training_is_its_base_plus_the_averaged_product(adapted):
    state, job, cfg, workdir, _ = adapted
    base, found = named_leaves(job.frozen[0]), load_transformer(workdir)
    assert found.model == cfg.step.model
    average = named_leaves(state.ema)
    for name, leaf in named_leaves(found.params).items():
        expected = np.asarray(base[name], np.float64)
        a = average.get(f"{name.removesuffix('.kernel')}.a")
        if a is not None:
            b = np.asarray(average[f"{name.removesuffix('.kernel')}.b"], np.float64)
            expected = expected + 2.0 * np.asarray(a, np.float64) @ b
            assert not np.array_equal(leaf, base[name])
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_stop_changes_no_bit(folder, dataset, adapted, tmp_path):
    """And the base may have moved meanwhile, but not changed."""
    run = tmp_path / "run"
    fine_tune("lora", open_start(folder), dataset, run, steps=15, **FAST)
    moved = shutil.copytree(folder, tmp_path / "moved")
    state, *_ = fine_tune("lora", open_start(moved), dataset, run, steps=40, **FAST)
    assert_same(state, adapted[0])

    other = tmp_path / "other"
    loaded = load_transformer(folder)
    params = jax.tree.map(
        lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-6), loaded.params
    )
    save_folder(other / "dit", params, loaded.config)
    full = tmp_path / "full"
    fine_tune("full", open_start(folder), dataset, full, steps=1)
    for way, workdir, step in (("lora", run, FAST), ("full", full, {})):
        with pytest.raises(ValueError, match="not from this --init") as error:
            fine_tune(way, open_start(other), dataset, workdir, steps=41, **step)
        one_line(error)

    shutil.rmtree(moved / "dit")
    with pytest.raises(
        ValueError, match=r"the base of the adapters in .*folder is miss"
    ):
        load_transformer(run)
    shutil.copytree(other / "dit", moved / "dit")
    with pytest.raises(ValueError, match="not the model that the adapters in") as error:
        load_transformer(run)
    one_line(error)


def one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.slow
def test_adapters_of_an_adapted_model(adapted, dataset, tmp_path):
    """A LoRA training folder is a start like any other."""
    _, _, _, workdir, _ = adapted
    start = open_start(workdir)
    _, job, _ = fine_tune("lora", start, dataset, tmp_path / "run", steps=1, **FAST)
    expected = sha256_of_tree(load_transformer(workdir).params)
    assert sha256_of_tree(job.frozen[0]) == expected
    assert job.settings["init"]["sha256"] == expected


# --- What does not fit ------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"model": {"layers": 3}}, r"'step.model.layers' is 3, but .* has 2; leave it"),
        ({"model": {"shift": 3.0}}, r"'step.model.shift' is 3.0, but .* has 'auto'"),
        ({"model": {"hight": 3}}, "unknown setting 'step.model.hight'"),
        ({"model": {"layers": "two"}}, "'step.model.layers' is 'two', expected int"),
        ({"model": 3}, "'model' is 3, expected a group"),
        ({"process": {"prediction": "x0"}}, "'step.process.prediction' is 'x0', but"),
        ({"lora": {"rnak": 3}}, "'step.lora.rnak': did you mean 'step.lora.rank'"),
        ({"lora": {"rank": 2.5}}, "'step.lora.rank' is 2.5, expected int"),
        ({"lora": {"rank": -1}}, "rank is -1, expected at least 1"),
        ({"lora": {"targets": "blocks.*"}}, r"'step.lora.targets' is 'blocks.\*'"),
        ({"lora": {"targets": ["blocks.ffn"]}}, "'blocks.ffn' is no layer of this"),
        ({"optim": {"muon_learning_rate": 1e-3}}, "muon_learning_rate is set, but"),
    ],
)
def test_settings_that_do_not_fit(folder, dataset, tmp_path, step, message):
    with pytest.raises(ValueError, match=message) as error:
        fine_tune(
            "lora", open_start(folder), dataset, tmp_path / "run", steps=1, **step
        )
    one_line(error)
    assert not (tmp_path / "run").exists()


def test_what_is_named_as_it_is_fits(folder):
    """As is how the model is computed, which a training may choose."""
    start = open_start(folder)
    model = {"layers": 2, "patch": (1, 2, 2), "dtype": "bfloat16", "remat": "dots"}
    found = settings("lora", start, model=model, process={"prediction": "flow"})
    assert found.step.model == replace(start.dit.model, dtype="bfloat16", remat="dots")


@pytest.mark.slow
def test_a_model_may_be_given_local_layers(folder, dataset, tmp_path):
    """Which change nothing before they are trained, and are trained."""
    start, model = open_start(folder), {"local_layers": 1, "local_width": 4}
    run = tmp_path / "run"
    _, job, cfg = fine_tune("full", start, dataset, run, steps=1, model=model)
    loaded, begun = load_transformer(run), job.start().params
    assert loaded.model == cfg.step.model and loaded.model.local_layers == 1
    assert not np.any(begun["local"]["head"]["kernel"])
    assert_same({**start.dit.params, "local": begun["local"]}, begun)
    state, *_ = fine_tune("full", start, dataset, run, steps=3, model=model)
    assert np.any(state.params["local"]["head"]["kernel"])
    for way, chosen in (("lora", start), ("full", open_start(run))):
        with pytest.raises(ValueError, match="the folder has it"):
            settings(way, chosen, model={"local_layers": 2})


@pytest.mark.slow
def test_a_forecast_is_given_and_trained_alone(folder, dataset, tmp_path):
    """Everything else stays as it is to the bit, and so do predictions at first."""
    start = open_start(folder)
    model = {"forecast_layers": 1, "local_width": 4}
    run = tmp_path / "run"
    state, _, cfg = fine_tune(
        "full", start, dataset, run, steps=3, model=model, part="forecast"
    )
    assert np.any(state.params["forecast"]["layers"]["head"]["kernel"])
    assert not np.any(state.params["forecast_gate"]["kernel"])
    kept = {name: state.params[name] for name in start.dit.params}
    assert_same(start.dit.params, kept)
    assert load_transformer(run).model == cfg.step.model
    # It may still be given local layers, as wide as those it has.
    more = settings("full", open_start(run), model={"local_layers": 1})
    assert more.step.model.local_width == 4
    with pytest.raises(ValueError, match="the folder has it"):
        settings("full", open_start(run), model={"local_layers": 1, "local_width": 8})


def test_a_model_without_a_forecast_has_none_to_train(folder):
    start = open_start(folder)
    with pytest.raises(ValueError, match=r"set step\.model\.forecast_layers") as error:
        settings("full", start, part="forecast")
    one_line(error)
    with pytest.raises(ValueError, match=r"step\.part' is 'both', expected") as error:
        settings("full", start, part="both")
    one_line(error)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_there_must_be_a_model(way):
    with pytest.raises(ValueError, match="name its folder with --init") as error:
        settings_of(split(load_preset(f"{CONFIG}:{way}"))[1], None)
    one_line(error)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (
            {"text_encoder": "umt5:/models/umt5"},
            "with the text encoder 'umt5:.*'hashed:8",
        ),
        ({"vae_sha256": "0" * 64}, "prepared with another VAE"),
        ({"text_width": 16}, "has 16 text width, the model expects 8"),
    ],
)
def test_a_dataset_of_another_model(folder, dataset, tmp_path, card, message):
    other = shutil.copytree(dataset, tmp_path / "other")
    change(other, **card)
    with pytest.raises(ValueError, match=message) as error:
        fine_tune("lora", open_start(folder), other, tmp_path / "run", steps=1)
    one_line(error)
    assert not (tmp_path / "run").exists()
