"""Adapter files against diffusers: `tests/golden/lora.npz` is what it computed."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from soraxla.checkpoints.load import load_transformer
from soraxla.checkpoints.training_folder import settings_of_kind, trained_ema
from soraxla.checkpoints.wan import import_wan
from soraxla.checkpoints.wan.adapter import ADAPTER
from soraxla.checkpoints.wan.adapter_export import export_adapter
from soraxla.core.trees import nested
from soraxla.core.types import LatentGrid
from soraxla.models import dit
from soraxla.models.dit import lora
from soraxla.models.dit.lora import LoRAConfig
from soraxla.packing.pack import PackConfig, Segment, pack
from soraxla.packing.patchify import patchify, positions, unpatchify
from soraxla.training.dit_step import DiTStepConfig, dit_init
from soraxla.training.finetune import open_start
from tests.golden.wan import LORA, part, write_transformer
from tests.tiny import quick
from tests.training import toy

GOLDEN = np.load(LORA)
THEIRS = {
    **{f"self_attn.{x}": f"attn1.to_{x}" for x in "qkv"},
    **{f"cross_attn.{x}": f"attn2.to_{x}" for x in "qkv"},
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.o": "attn2.to_out.0",
    "mlp.in_proj": "ffn.net.0.proj",
    "mlp.out_proj": "ffn.net.2",
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_transformer(folder / "theirs")
    import_wan([folder / "theirs"], folder / "wan", text_encoder="hashed:8")
    return open_start(folder / "wan")


def trained(workdir, start, settings, adapters=None):
    """A training folder with these averaged adapters, without training."""
    step = DiTStepConfig(model=start.dit.model, lora=settings)
    state = toy.zeros(dit_init, step)
    if adapters is not None:
        state = state._replace(ema=adapters)
    toy.folder_of(workdir, "dit", step, state, init=start.record())
    return workdir


@pytest.fixture(scope="module")
def run(start, tmp_path_factory):
    """Loads the golden adapter, which was trained with a scale of 2."""
    adapters, settings = golden_adapters()
    return trained(tmp_path_factory.mktemp("runs") / "run", start, settings, adapters)


@functools.cache
def program(model):
    """The compiled prediction for the fixture's input, that input, and its grid.

    A function of parameters and adapters.
    """
    _, _, t, h, w = GOLDEN["latents"].shape
    grid = LatentGrid(t=t, h=h, w=w)
    clip = Segment(
        tokens=np.asarray(
            patchify(GOLDEN["latents"][0].transpose(1, 2, 3, 0), model.patch)
        ),
        positions=positions(grid, model.patch, model.rope_fps, model.rope_fps),
        text=GOLDEN["text"][0, : int(GOLDEN["tokens"])],
        visit=0,
        shift=1.0,
    )
    spec = PackConfig(row_length=len(clip.tokens), text_length=8, max_segments=1)
    batch = pack([[clip]], spec)
    time = (GOLDEN["time"] / 1000.0)[None].astype(np.float32)
    apply = quick(
        lambda params, adapters, x: dit.apply(
            params, model, x, time, batch, adapters=adapters
        )
    )
    return apply, jax.numpy.asarray(batch.latents), grid


@functools.cache
def golden_adapters():
    """The golden adapter in our layout, of a scale of 2 more, and its settings."""
    theirs, named = part("adapter"), {}
    for ours, name in THEIRS.items():
        a, b = (
            np.stack(
                [theirs[f"transformer.blocks.{i}.{name}.{x}.weight"].T for i in (0, 1)]
            )
            for x in ("lora_A", "lora_B")
        )
        named |= {f"blocks.{ours}.a": a, f"blocks.{ours}.b": b / 2}
    targets = ("blocks.*_attn.[qkvo]", "blocks.mlp.*")
    return nested(named), LoRAConfig(rank=3, alpha=6.0, targets=targets)


def predicted(params, model, adapters=None):
    """The prediction for the fixture's input, in diffusers' layout (1,C,T,H,W).

    No adapters are some that add nothing: one program does for all.
    """
    apply, x, grid = program(model)
    if adapters is None:
        adapters = jax.tree.map(np.zeros_like, lora.scaled(*golden_adapters()))
    out = apply(params, adapters, x)
    clip = np.asarray(unpatchify(np.asarray(out)[0], grid, model.patch))
    return clip.transpose(3, 0, 1, 2)[None]


@pytest.mark.slow
def test_adapters_predict_as_diffusers_with_the_adapter(start, run):
    """Merged, as a training folder is read, and beside the weights, as in training."""
    model = replace(start.dit.model, dtype="float32")
    before, after = GOLDEN["before"], GOLDEN["after"]
    assert abs(after - before).max() > 0.5
    _, config, adapters = trained_ema(run, settings_of_kind(run, "dit"))
    for params, beside, expected in (
        (start.dit.params, None, before),
        (load_transformer(run).params, None, after),
        (start.dit.params, lora.scaled(adapters, config), after),
    ):
        found = predicted(params, model, beside)
        assert abs(found - expected).max() <= 1e-4 * abs(expected).max()


def test_the_adapter_file_is_what_diffusers_was_given(run, tmp_path):
    export_adapter(run, tmp_path / "adapter")
    found = load_file(tmp_path / "adapter" / ADAPTER)
    expected = part("adapter")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert [p.name for p in (tmp_path / "adapter").iterdir()] == [ADAPTER]
    with pytest.raises(ValueError, match="exists; remove it"):
        export_adapter(run, tmp_path / "adapter")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            LoRAConfig(rank=2, targets=("patch_embed",)),
            "no adapter of 'patch_embed'; export",
        ),
        (None, "trains whole weights and has no adapter"),
    ],
)
def test_what_is_no_adapter_for_diffusers(start, tmp_path, settings, message):
    run = trained(tmp_path / "run", start, settings)
    with pytest.raises(ValueError, match=message):
        export_adapter(run, tmp_path / "adapter")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# --- In -----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_adapter_merged_on_import_is_what_diffusers_computes(tmp_path):
    """Under diffusers' names, and Wan's own with an alpha of twice the rank."""
    theirs = write_transformer(tmp_path / "theirs")
    given = part("adapter")
    original = {
        name.replace("transformer.", "diffusion_model.")
        .replace("attn1.to_out.0", "self_attn.o")
        .replace("attn1.to_", "self_attn."): (
            tensor / 2 if "lora_B" in name else tensor
        )
        for name, tensor in given.items()
    }
    original |= {
        name.replace("lora_A.weight", "alpha"): np.array(2.0 * len(tensor), np.float32)
        for name, tensor in original.items()
        if "lora_A" in name
    }
    for spelling, tensors in (("diffusers", given), ("wan", original)):
        file = tmp_path / f"{spelling}.safetensors"
        save_file(tensors, file)
        out = tmp_path / spelling
        import_wan([theirs], out, text_encoder="hashed:8", adapter=file)
        loaded = load_transformer(out)
        found = predicted(loaded.params, replace(loaded.model, dtype="float32"))
        after = GOLDEN["after"]
        assert abs(found - after).max() <= 1e-4 * abs(after).max()


def extra(tensors, name):
    tensors["transformer.blocks.0.more.lora_A.weight"] = tensors[name]


def halved(tensors, name):
    tensors[name] = tensors[name][:, :-1].copy()


def of_another_model(tensors, name):
    for key in list(tensors):
        tensors[key.replace("blocks.0", "blocks.7")] = tensors.pop(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (extra, "1 of .* tensors are no pair .*more.lora_A"),
        (halved, "2 of .* tensors are no pair"),
        (lambda tensors, name: tensors.pop(name), "1 of .* tensors are no pair"),
        (of_another_model, "tensors are no pair .*blocks.7"),
        (lambda tensors, name: tensors.clear(), "0 of 0 tensors"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(tmp_path, damage, message):
    theirs = write_transformer(tmp_path / "theirs")
    tensors = part("adapter")
    damage(tensors, min(name for name in tensors if "lora_A" in name))
    file = tmp_path / "adapter.safetensors"
    save_file(tensors, file)
    with pytest.raises(ValueError, match=message) as error:
        import_wan([theirs], tmp_path / "o", text_encoder="hashed:8", adapter=file)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [file.name, "theirs"]
