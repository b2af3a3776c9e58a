"""Wan 2.1 in and out: diffusers' numbers, and every bit on the way back."""

import dataclasses
import functools
import json
import math
import re
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from soraxla.checkpoints.load import load_dit, load_vae
from soraxla.checkpoints.wan import export_wan, import_wan, load_wan
from soraxla.checkpoints.wan.families import dit_config_of
from soraxla.checkpoints.wan.layout import dit_places
from soraxla.cli.main import main
from soraxla.core.config import build
from soraxla.core.trees import named_leaves
from soraxla.core.types import LatentGrid, PackedBatch
from soraxla.diffusion.guidance import Guidance, guided
from soraxla.diffusion.process import Process
from soraxla.diffusion.sampler import sample
from soraxla.diffusion.solvers import UniPC, WanEuler
from soraxla.files.tensor_files import INDEX
from soraxla.models import dit, vae
from soraxla.models.dit.config import DiTConfig, dit_config
from soraxla.packing.patchify import patchify, positions
from tests.marks import slow
from tests.tiny import quick

GOLDEN = Path(__file__).parents[2] / "golden"
WAN = GOLDEN / "wan21"
PARTS = ("transformer", "vae")
TOLERANCE = 1e-4  # of the largest output


@functools.cache
def golden():
    with np.load(GOLDEN / "wan21.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("wan") / "ours"
    import_wan([WAN], out, text_encoder="hashed:8")
    return out


@pytest.fixture
def folder(tmp_path):
    """A copy to break."""
    return shutil.copytree(WAN, tmp_path / "wan")


def tensors(folder):
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def close(found, expected):
    limit = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


# --- The numbers ------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer(imported):
    loaded = load_dit(imported / "dit")
    cfg = dataclasses.replace(loaded.model, dtype="float32", remat="none")
    return loaded.params, cfg, quick(functools.partial(dit.apply, cfg=cfg))


def one_clip(x, text, cfg):
    """A row of one clip (c,t,h,w) at Wan's rate, with its text (m,e)."""
    grid = LatentGrid(t=x.shape[1], h=x.shape[2], w=x.shape[3])
    tokens = to_tokens(x, cfg)
    n = tokens.shape[1]
    return PackedBatch(
        latents=tokens,
        segment_ids=np.ones((1, n), np.int32),
        token_index=np.arange(n, dtype=np.int32)[None],
        positions=positions(grid, cfg.patch, fps=16.0, rope_fps=16.0)[None],
        condition_mask=np.zeros((1, n), bool),
        controls=np.zeros((1, n, 0), np.float32),
        features=np.zeros((1, n, 0), np.float32),
        text=text[None],
        text_segment_ids=np.ones((1, len(text)), np.int32),
        visit=np.zeros((1, 1), np.uint32),
        shift=np.full((1, 1), cfg.shift, np.float32),
    )


def to_tokens(x, cfg):
    return patchify(x.transpose(1, 2, 3, 0), cfg.patch)[None]


@pytest.mark.parametrize(
    "case",
    [
        "full",
        *slow("short", "long", "deep"),
    ],
)
def test_the_transformer_is_diffusers(transformer, case):
    params, cfg, run = transformer
    x, text, t, expected = (
        golden()[f"dit.{case}.{key}"] for key in ("x", "text", "t", "out")
    )
    batch = one_clip(x, text, cfg)
    out = run(params, x=batch.latents, t=np.full((1, 1), t / 1000), batch=batch)
    close(out, to_tokens(expected, cfg))


@pytest.mark.slow  # the fast one is that from a picture, of Wan 2.2
@pytest.mark.parametrize(
    ("name", "solver"), [("unipc", UniPC()), ("wan-euler", WanEuler())]
)
def test_every_step_of_the_pipeline_is_diffusers(transformer, name, solver):
    """10 steps at a guidance of 5; 1e-3 of the largest latent is what was asked."""
    params, cfg, _ = transformer
    expected = golden()[f"pipe.{name}"]
    rows = {
        key: one_clip(expected[0], golden()[f"pipe.{key}"], cfg)
        for key in ("prompt", "negative")
    }
    batch, shown = rows["prompt"], []
    guide = guided(
        functools.partial(dit.denoiser, params, cfg),
        batch,
        rows["negative"],
        guidance=Guidance(cfg_scale=5.0),
    )

    def denoise(x, t):
        jax.debug.callback(lambda x: shown.append(np.asarray(x)), x, ordered=True)
        return guide(x, t)

    grid = solver.grid(10, batch.shift)
    out = quick(
        lambda noise, grid: sample(
            denoise, noise, batch, grid, process=Process(), solver=solver
        )
    )(batch.latents, grid)
    jax.effects_barrier()
    assert len(shown) == 10
    for found, latents in zip([*shown, out], expected, strict=True):
        close(found, to_tokens(latents, cfg))


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 5, 17])
def test_the_vae_is_diffusers(imported, frames):
    loaded = load_vae(imported / "vae")
    cfg = loaded.model
    assert cfg.dtype == "float32" and cfg.latent_mean == (0.1, 0.2, -0.3, 0.4)

    def case(key):
        array = golden()[f"vae.{frames}.{key}"].astype(np.float32)
        return array.transpose(1, 2, 3, 0)[None]

    mean, logvar = quick(lambda v: vae.encode(loaded.params, cfg, v))(case("video"))
    close(mean, case("mean"))
    close(logvar, case("logvar"))
    close(quick(lambda z: vae.decode(loaded.params, cfg, z))(case("z")), case("pixels"))


# --- There and back ---------------------------------------------------------------


def test_in_and_out_again_is_the_same_to_the_bit(imported, tmp_path):
    assert export_wan(imported, tmp_path / "out") == []
    for part in PARTS:
        there, back = tensors(WAN / part), tensors(tmp_path / "out" / part)
        assert there.keys() == back.keys()
        for name, tensor in there.items():
            assert back[name].dtype == tensor.dtype
            np.testing.assert_array_equal(back[name], tensor, err_msg=name)
        config = json.loads((tmp_path / "out" / part / "config.json").read_text())
        expected = json.loads((WAN / part / "config.json").read_text())
        assert config.items() <= expected.items()
    index = json.loads(
        next((tmp_path / "out/transformer").glob(f"*{INDEX}")).read_text()
    )
    assert index["weight_map"].keys() == tensors(WAN / "transformer").keys()


def test_what_diffusers_cannot_hold_goes_beside(imported, tmp_path):
    ours = shutil.copytree(imported, tmp_path / "ours")
    stem = load_file(ours / "dit" / "stem.safetensors")
    stem["known_embed"] = stem["known_embed"] + np.float32(0.5)
    save_file(stem, ours / "dit" / "stem.safetensors")
    assert export_wan(ours, tmp_path / "out") == ["known_embed"]
    beside = load_file(tmp_path / "out" / "transformer" / "soraxla_only.safetensors")
    np.testing.assert_array_equal(beside["known_embed"], stem["known_embed"])


@pytest.mark.parametrize("more", [{"input_gate": True}, *slow({"local_layers": 1})])
def test_an_answer_that_is_more_than_the_head_s_is_not_wans(more, imported, tmp_path):
    """Without the rest, what diffusers reads would be no prediction."""
    ours = shutil.copytree(imported, tmp_path / "ours")
    config = json.loads((ours / "dit" / "config.json").read_text())
    config["model"] |= more
    (ours / "dit" / "config.json").write_text(json.dumps(config))
    gated = build(DiTConfig, config["model"])
    leaves = named_leaves(jax.eval_shape(lambda: dit.init(jax.random.key(0), gated)))
    stem = load_file(ours / "dit" / "stem.safetensors")
    for name in leaves.keys() - stem.keys():
        if not name.startswith("blocks."):
            stem[name] = np.zeros(leaves[name].shape, np.float32)
    save_file(stem, ours / "dit" / "stem.safetensors")
    with pytest.raises(ValueError, match="adds to its answer beside the head"):
        export_wan(ours, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_wans_own_names_are_the_same_tensors(imported, tmp_path, prefix):
    names = json.loads((GOLDEN / "wan21_names.json").read_text())
    theirs = tensors(WAN / "transformer")
    assert sorted(names.values()) == sorted(theirs)
    original = tmp_path / "original.safetensors"
    save_file({prefix + k: theirs[v] for k, v in names.items()}, original)
    import_wan([original], tmp_path / "ours", text_encoder="hashed:8")
    again, before = tensors(tmp_path / "ours" / "dit"), tensors(imported / "dit")
    assert again.keys() == before.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_diffusers_folder_loads_as_it_is(imported):
    pairs = zip(
        load_wan(WAN),
        (load_dit(imported / "dit", computed=True), load_vae(imported / "vae")),
        strict=True,
    )
    for direct, ours in pairs:
        same = jax.tree.map(np.array_equal, direct.params, ours.params)
        assert all(jax.tree.leaves(same))
        assert direct.model == ours.model


def test_the_family_is_told_from_shapes(imported):
    model = load_dit(imported / "dit").model
    assert (model.layers, model.width, model.mlp_width) == (3, 56, 40)
    assert model.heads == 2 and model.text_width == 6 and model.text_pad_to == 512
    assert model.shift == 3.0 and model.rope_fps == 16.0
    assert not model.position_embed and not model.text_refiner_layers


@pytest.mark.parametrize(
    ("size", "tensors", "parameters"),
    [
        ("wan_1_3b", 825, 1_418_996_800),
        *slow(("wan_14b", 1095, 14_288_491_584)),
    ],
)
def test_the_public_sizes_have_their_tensors(size, tensors, parameters):
    cfg = dit_config(size)
    abstract = jax.eval_shape(lambda: dit.init(jax.random.key(0), cfg))
    places = dit_places(cfg, abstract)
    shapes = {place.name: place.their_shape for place in places.values()}
    assert len(places) == len(shapes) == tensors
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    again = dit_config_of(shapes, {}, WAN, shift=None)
    assert dataclasses.replace(again, shift=cfg.shift) == cfg


# --- What is not right ------------------------------------------------------------


def change(part, edit):
    """Rewrites the file of a part that `edit` picks a tensor of."""

    def broken(folder):
        path = sorted((folder / part).glob("*.safetensors"))[0]
        held = load_file(path)
        edit(held, sorted(held)[0])
        save_file(held, path)

    return broken


def truncate(folder):
    path = sorted((folder / "transformer").glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])


def only_pickles(folder):
    for path in (folder / "vae").glob("*.safetensors"):
        path.unlink()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")


def no_shard(folder):
    sorted((folder / "transformer").glob("*.safetensors"))[2].unlink()


def quantised(held, name):
    held[name] = held[name].astype(ml_dtypes.float8_e4m3fn)


def image_to_video(folder):
    for path in (folder / "transformer").glob("*.safetensors"):
        held = load_file(path)
        if "patch_embedding.weight" in held:
            w = held["patch_embedding.weight"]
            held["patch_embedding.weight"] = np.concatenate([w, w], axis=1)
            save_file(held, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("vae", lambda h, n: h.pop(n)), "1 missing, such as 'decoder"),
        (
            change("vae", lambda h, n: h.update(more=h[n])),
            "1 unexpected, such as 'more'",
        ),
        (
            change("vae", lambda h, n: h.update({n: h[n][:1]})),
            r"1 mis-shaped, such as 'decoder.*with \(1,.*expected \(",
        ),
        (truncate, "not a whole safetensors file"),
        (no_shard, "1 of 6 files that .* names are missing"),
        (only_pickles, r"a pickle.*take the safetensors files.*-Diffusers"),
        (change("transformer", quantised), "F8_E4M3, quantised"),
        (image_to_video, "8 input channels.*image-to-video"),
        (lambda f: shutil.rmtree(f / "vae"), "no such file or folder"),
    ],
)
def test_a_model_that_is_not_whole_is_one_line_and_nothing_written(
    folder, tmp_path, capsys, damage, message
):
    damage(folder)
    out = tmp_path / "ours"
    status = main(["import", "wan", "--from", str(folder), "--out", str(out)])
    err = capsys.readouterr().err
    assert status == 2
    assert err.count("\n") == 1 and err.startswith("soraxla import: ")
    assert re.search(message, err), err
    assert [p.name for p in tmp_path.iterdir()] == ["wan"]


def test_a_vae_comes_alone_and_a_transformer_not_without_a_text_encoder(tmp_path):
    import_wan([WAN / "vae"], tmp_path / "one")
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["vae"]
    with pytest.raises(ValueError, match="holds no text encoder; name it"):
        import_wan([WAN], tmp_path / "two")
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_an_existing_folder_is_left_alone(tmp_path):
    out = tmp_path / "ours"
    out.mkdir()
    with pytest.raises(ValueError, match="exists; remove it"):
        import_wan([WAN], out, text_encoder="hashed:8")
    with pytest.raises(ValueError, match="exists; remove it"):
        export_wan(WAN, out)
