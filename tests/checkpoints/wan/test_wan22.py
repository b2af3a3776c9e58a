"""Wan 2.2 TI2V 5B against diffusers: tiny random weights, made by make_wan22.py."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from soraxla.checkpoints.load import load_dit, load_vae
from soraxla.checkpoints.wan.convert import (
    export_wan,
    import_wan,
    open_transformer,
    open_vae,
)
from soraxla.checkpoints.wan.families import (
    LATENT_MEAN_48,
    LATENT_STD_48,
    dit_config_of,
    vae_config_of,
)
from soraxla.core.types import LatentGrid, PackedBatch
from soraxla.generation.pipeline import load
from soraxla.models import dit, vae
from soraxla.models.dit.config import SIZES
from soraxla.packing.patchify import patchify, positions, unpatchify
from tests.golden.wan import GOLDEN, WAN22, write_wan22
from tests.marks import slow
from tests.tiny import quick

CLIPS = [9, *slow(1, 5, 17)]


@pytest.fixture(scope="module")
def golden():
    return {part: np.load(GOLDEN / f"{name}.npz") for part, name in WAN22.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wan22(tmp_path_factory.mktemp("wan22") / "theirs")


@pytest.fixture(scope="module")
def loaded_vae(folder):
    return open_vae(folder).load()


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def assert_close(result, expected):
    """To 1e-4 of the largest value."""
    assert result.shape == expected.shape
    error = np.abs(np.asarray(result) - expected).max() / np.abs(expected).max()
    assert error <= 1e-4, f"relative error {error:.1e}"


def video_of(golden, frames):
    return (
        channels_last(golden["vae"][f"video_{frames}"].astype(np.float32)) / 127.5 - 1
    )


# --- The VAE ----------------------------------------------------------------------


def test_the_vae_is_told_from_its_files(loaded_vae, golden):
    cfg = loaded_vae.model
    assert (cfg.base_width, cfg.decoder_width, cfg.latent_channels) == (4, 5, 48)
    assert cfg.residual and cfg.pixel_patch == 2
    assert (cfg.spatial, cfg.temporal) == (16, 4)
    config = json.loads(str(golden["vae"]["config"]))
    assert cfg.latent_mean == tuple(config["latents_mean"])


@pytest.mark.slow  # Wan 2.1's, of the same code, is fast
@pytest.mark.parametrize("frames", CLIPS)
def test_the_vae_encodes_as_diffusers(loaded_vae, golden, frames):
    video = video_of(golden, frames)
    encode = quick(lambda v: vae.encode(loaded_vae.params, loaded_vae.model, v))
    for name, result in zip(("mean", "logvar"), encode(video), strict=True):
        assert_close(result, channels_last(golden["vae"][f"{name}_{frames}"]))


@pytest.mark.parametrize("frames", CLIPS)
def test_the_vae_decodes_as_diffusers(loaded_vae, golden, frames):
    z = channels_last(golden["vae"][f"z_{frames}"])
    decode = quick(lambda z: vae.decode(loaded_vae.params, loaded_vae.model, z))
    assert_close(decode(z), channels_last(golden["vae"][f"pixels_{frames}"]))


def streamed(chunk_fn, x, sizes):
    parts, past, start = [], None, 0
    for size in sizes:
        *out, past = chunk_fn(x[:, start : start + size], past)
        parts.append(out[0])
        start += size
    assert start == x.shape[1]
    return np.concatenate(parts, axis=1)


@pytest.fixture(scope="module")
def steps(loaded_vae):
    params, cfg = loaded_vae.params, loaded_vae.model
    return {
        chunk: quick(functools.partial(chunk, params, cfg))
        for chunk in (vae.encode_chunk, vae.decode_chunk)
    }


@pytest.mark.slow
def test_a_streamed_encoding_is_diffusers(steps, golden):
    result = streamed(steps[vae.encode_chunk], video_of(golden, 17), (1, 8, 8))
    assert_close(result, channels_last(golden["vae"]["mean_17"]))


@pytest.mark.slow
def test_a_streamed_decoding_is_diffusers(steps, golden):
    z = channels_last(golden["vae"]["z_17"])
    result = streamed(steps[vae.decode_chunk], z, (2, 1, 1, 1))
    assert_close(result, channels_last(golden["vae"]["pixels_17"]))


# --- The transformer --------------------------------------------------------------


@pytest.mark.slow
def test_a_time_of_its_own_for_every_token(folder, golden):
    """Both clips in one row: known tokens at 0, the others at their clip's time."""
    io, loaded = golden["transformer"], open_transformer(folder).load()
    cfg = replace(loaded.model, dtype="float32")
    grid = LatentGrid(t=3, h=4, w=6)
    x = np.concatenate([patchify(clip, cfg.patch) for clip in channels_last(io["x"])])
    n = len(x) // 2
    segments = np.repeat([1, 2], n).astype(np.int32)[None]
    batch = PackedBatch(
        latents=np.zeros_like(x)[None],
        segment_ids=segments,
        token_index=np.tile(np.arange(n, dtype=np.int32), 2)[None],
        positions=np.tile(positions(grid, cfg.patch, 24.0, cfg.rope_fps), (2, 1))[None],
        condition_mask=io["known"].reshape(1, -1),
        controls=np.zeros((1, 2 * n, 0), np.float32),
        features=np.zeros((1, 2 * n, 0), np.float32),
        text=np.concatenate(
            [row[:k] for row, k in zip(io["text"], io["words"], strict=True)]
        )[None],
        text_segment_ids=np.repeat([1, 2], io["words"]).astype(np.int32)[None],
        visit=np.zeros((1, 2), np.uint32),
        shift=np.ones((1, 2), np.float32),
    )
    t = (io["time"].reshape(1, 2) / 1000).astype(np.float32)
    apply = quick(lambda x, t: dit.apply(loaded.params, cfg, x, t, batch))
    result = np.asarray(apply(x[None], t)).reshape(2, n, -1)
    clips = np.stack([unpatchify(clip, grid, cfg.patch) for clip in result])
    assert_close(clips, channels_last(io["out"]))


# --- In and out -------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_ways(folder, tmp_path_factory):
    """The folder imported, and exported again."""
    out = tmp_path_factory.mktemp("both_ways")
    import_wan([folder], out / "ours", text_encoder="hashed:8")
    assert export_wan(out / "ours", out / "theirs") == []
    return out


@pytest.mark.parametrize("part", WAN22)
def test_in_and_out_again_is_the_same_to_the_bit(both_ways, golden, part):
    exported = {
        name: tensor
        for file in sorted((both_ways / "theirs" / part).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    stored = load_file(GOLDEN / f"{WAN22[part]}.safetensors")
    assert exported.keys() == stored.keys()
    for name, tensor in stored.items():
        assert exported[name].dtype == tensor.dtype
        np.testing.assert_array_equal(exported[name], tensor, err_msg=name)


@pytest.mark.parametrize("part", WAN22)
def test_the_configuration_that_is_written_is_diffusers(both_ways, golden, part):
    written = json.loads((both_ways / "theirs" / part / "config.json").read_text())
    theirs = json.loads(str(golden[part]["config"]))
    assert written.pop("_class_name") in ("AutoencoderKLWan", "WanTransformer3DModel")
    assert {key: theirs[key] for key in written} == written


def test_what_was_imported_loads_and_knows_its_rates(both_ways, loaded_vae):
    assert load_vae(both_ways / "ours" / "vae").model == loaded_vae.model
    model = load_dit(both_ways / "ours" / "dit").model
    assert (model.rope_fps, model.shift, model.latent_channels) == (24.0, 5.0, 48)


@pytest.mark.slow
def test_it_generates_at_the_size_asked_for(both_ways):
    """40x24 pixels are cropped from 64x32, the next multiples of 16 · 2."""
    pipeline = load(both_ways / "ours")
    video = pipeline.generate("a dog", size=(40, 24), frames=2, steps=1, cfg_scale=1.0)
    assert video.frames.shape == (2, 24, 40, 3)
    assert video.frames.std() > 10


def shapes_of(size):
    """The tensors that tell a transformer, of a named size."""
    cfg = SIZES[size]
    return {
        "patch_embedding.weight": (cfg.width, cfg.latent_channels, *cfg.patch),
        "proj_out.weight": (cfg.patch_dim, cfg.width),
        "condition_embedder.text_embedder.linear_1.weight": (cfg.width, cfg.text_width),
        **{
            f"blocks.{i}.ffn.net.0.proj.weight": (cfg.mlp_width, cfg.width)
            for i in range(cfg.layers)
        },
    }


def test_the_5b_is_told_from_its_shapes_alone():
    found = dit_config_of(shapes_of("wan_5b"), {}, Path("file"), shift=None)
    assert found == SIZES["wan_5b"]


def test_statistics_are_wans_where_the_configuration_has_none(folder, tmp_path):
    """As for a bare file; of channels that no Wan has, it is refused."""
    shutil.copytree(folder / "vae", tmp_path / "vae")
    path = tmp_path / "vae" / "config.json"
    config = json.loads(path.read_text())
    del config["latents_mean"], config["latents_std"]
    path.write_text(json.dumps(config))
    cfg = open_vae(tmp_path / "vae").model
    assert (cfg.latent_mean, cfg.latent_std) == (LATENT_MEAN_48, LATENT_STD_48)
    shapes = {
        "encoder.conv_in.weight": (4, 12, 3, 3, 3),
        "post_quant_conv.weight": (7, 7, 1, 1, 1),
        "decoder.conv_in.weight": (20, 7, 3, 3, 3),
    }
    with pytest.raises(ValueError, match=r"7 latent channels .*config\.json"):
        vae_config_of(shapes, {}, Path("file"))


def test_two_transformers_in_turn_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a14b")
    shutil.copytree(folder / "transformer", tmp_path / "a14b" / "transformer_2")
    with pytest.raises(ValueError, match=r"two transformers.*supported: .*2\.2"):
        import_wan([tmp_path / "a14b"], tmp_path / "out", text_encoder="hashed")
    assert not (tmp_path / "out").exists()
