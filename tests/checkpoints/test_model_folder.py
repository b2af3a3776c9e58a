"""Weights at rest: what is saved comes back, what is not right is one clear line."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from soraxla.checkpoints.load import load_dit, load_vae, named_tensors
from soraxla.checkpoints.model_folder import CONFIG, save_folder, sha256_of_folder
from soraxla.core.trees import named_leaves
from tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with `vae` and `dit`, fp32."""
    folder = tmp_path_factory.mktemp("weights")
    for name, loaded in (("vae", tiny.loaded_vae()), ("dit", tiny.loaded_dit())):
        save_folder(folder / name, loaded.params, loaded.config)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved, tmp_path / "weights")


def assert_same(one, other, dtype=np.float32):
    a, b = named_leaves(one), named_leaves(other)
    assert a.keys() == b.keys()
    for name in a:
        rounded = np.asarray(b[name]).astype(dtype).astype(np.float32)
        assert a[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], rounded, err_msg=name)


def one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


# --- There and back ---------------------------------------------------------------


def test_weights_come_back_bit_for_bit(saved):
    vae, dit = load_vae(saved / "vae"), load_dit(saved / "dit")
    assert_same(vae.params, tiny.vae_params())
    assert_same(dit.params, tiny.dit_params())
    assert vae.model == tiny.VAE and dit.model == tiny.DIT
    assert dit.config["text_encoder"] == "hashed:16"


def test_bf16_weights_are_rounded_once(tmp_path):
    for name, loaded, load in (
        ("vae", tiny.loaded_vae(), load_vae),
        ("dit", tiny.loaded_dit(), load_dit),
    ):
        save_folder(tmp_path / name, loaded.params, loaded.config, dtype="bfloat16")
        back = load(tmp_path / name)
        assert_same(back.params, loaded.params, ml_dtypes.bfloat16)
        again = tmp_path / f"{name}_again"
        save_folder(again, back.params, back.config, dtype="bfloat16")
        assert sha256_of_folder(again) == sha256_of_folder(tmp_path / name)


def test_a_file_is_a_block_and_other_tools_can_read_it(saved):
    names = {p.name for p in (saved / "dit").iterdir()}
    assert names == {
        "config.json",
        "stem.safetensors",
        "block_000.safetensors",
        "block_001.safetensors",
    }
    assert {p.stem for p in (saved / "vae").iterdir()} == {
        "config",
        "encoder",
        "decoder",
    }
    tensors = load_file(saved / "dit" / "block_001.safetensors")
    assert all(name.startswith("blocks.1.") for name in tensors)
    stacked = named_leaves(tiny.dit_params())
    for name, tensor in tensors.items():
        leaf = stacked["blocks." + name.removeprefix("blocks.1.")]
        np.testing.assert_array_equal(tensor, leaf[1])


# --- What is not written ----------------------------------------------------------


def test_nothing_is_overwritten_or_half_written(folder, tmp_path, monkeypatch):
    loaded = tiny.loaded_vae()
    with pytest.raises(ValueError, match="exists; remove it") as error:
        save_folder(folder / "vae", loaded.params, loaded.config)
    one_line(error)
    with pytest.raises(ValueError, match=r"float16.*one of float32, bfloat16"):
        save_folder(tmp_path / "new", loaded.params, loaded.config, dtype="float16")

    def full_disk(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("soraxla.checkpoints.model_folder.save_tensors", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_folder(tmp_path / "new", loaded.params, loaded.config)
    assert not (tmp_path / "new").exists()
    save_folder(tmp_path / "new", loaded.params, loaded.config)
    assert_same(load_vae(tmp_path / "new").params, loaded.params)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "weights"]


# --- Bad input --------------------------------------------------------------------


def edit_tensors(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_config(file, change):
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def missing(tensors):
    del tensors["encoder.conv_out.bias"]


def unexpected(tensors):
    tensors["encoder.more"] = np.zeros(2, np.float32)


def misshaped(tensors):
    name = "encoder.conv_out.bias"
    tensors[name] = tensors[name][:-1].copy()


def quantised(tensors):
    name = "encoder.conv_out.bias"
    tensors[name] = tensors[name].astype(np.int8)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("encoder.safetensors", quantised, "conv_out.bias' is I8, quantised"),
        ("encoder.safetensors", missing, r"1 missing, such as 'encoder\.conv_out"),
        ("encoder.safetensors", unexpected, r"1 unexpected, such as 'encoder\.more'"),
        (
            "encoder.safetensors",
            misshaped,
            r"1 mis-shaped, .* with \(7,\), expected \(8,\)",
        ),
        ("encoder.safetensors", truncate, r"encoder\.safetensors: not a whole"),
        ("encoder.safetensors", lambda f: f.write_bytes(b""), "not a whole"),
        (
            "encoder.safetensors",
            lambda f: f.unlink(),
            r"[0-9]+ missing, such as 'encoder",
        ),
        (CONFIG, lambda f: f.unlink(), r"no vae weights here, config\.json is missing"),
        (CONFIG, truncate, r"config\.json: damaged"),
        (CONFIG, lambda f: f.write_bytes(b"\xff" * 2000), "damaged.*utf-8"),
        (CONFIG, lambda f: f.write_text("[]"), "damaged"),
        (
            CONFIG,
            lambda c: c.update(format=99),
            "format 99, expected 'vae' of format 1",
        ),
        (CONFIG, lambda c: c.update(format="new"), "damaged.*new"),
        (CONFIG, lambda c: c.update(kind="dit"), "holds 'dit'.*expected 'vae'"),
        (CONFIG, lambda c: c.pop("kind"), "damaged.*kind"),
        (CONFIG, lambda c: c.pop("model"), r"config\.json: .*model"),
        (CONFIG, lambda c: c.update(model=[]), r"config\.json: .*model"),
        (
            CONFIG,
            lambda c: c["model"].update(base_witdh=4),
            "did you mean 'model.base_width'",
        ),
        (CONFIG, lambda c: c["model"].update(base_width=8), "mis-shaped"),
        (CONFIG, lambda c: c["model"].update(latent_mean=[0.0]), "latent_mean"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_clear_line(folder, file, damage, message):
    path = folder / "vae" / file
    if damage in (missing, unexpected, misshaped, quantised):
        edit_tensors(path, damage)
    elif damage.__code__.co_varnames[0] == "c":
        edit_config(path, damage)
    else:
        damage(path)
    with pytest.raises(ValueError, match=message) as error:
        load_vae(folder / "vae")
    one_line(error)
    assert str(folder / "vae") in str(error.value)


def test_what_is_incomplete_is_not_handed_on(folder):
    """As an export would, tensor by tensor."""
    names, read, model = named_tensors(folder, "vae")
    assert len(names) == len(named_leaves(tiny.vae_params())) and model == tiny.VAE
    assert read("encoder.conv_out.bias").shape == (8,)
    edit_tensors(folder / "vae" / "encoder.safetensors", missing)
    with pytest.raises(ValueError, match="1 missing") as error:
        named_tensors(folder, "vae")
    one_line(error)


@pytest.mark.parametrize("key", ["model", "process", "text_encoder"])
def test_a_transformers_config_must_be_whole(folder, key):
    edit_config(folder / "dit" / CONFIG, lambda c: c.pop(key))
    with pytest.raises(ValueError, match=rf"config\.json: .*{key}") as error:
        load_dit(folder / "dit")
    one_line(error)


def test_the_other_kind_of_folder_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="holds 'vae' of format 1, expected 'dit'"):
        load_dit(saved / "vae")
    for load in (load_vae, load_dit):
        with pytest.raises(ValueError, match="weights here") as error:
            load(tmp_path / "nowhere")
        one_line(error)


# --- The hash ---------------------------------------------------------------------


def test_the_hash_is_of_names_and_bytes_alone(folder):
    vae = folder / "vae"
    before = sha256_of_folder(vae)
    for path in vae.iterdir():
        os.utime(path, (1, 1))
    (vae / "README.md").write_text("not a weight")
    assert sha256_of_folder(shutil.copytree(vae, folder / "copy")) == before
    for path in sorted(vae.iterdir()):
        if path.name == "README.md":
            continue
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, -1):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            assert sha256_of_folder(vae) != before
        path.write_bytes(whole)
    assert sha256_of_folder(vae) == before
    (vae / "encoder.safetensors").rename(vae / "encoder_1.safetensors")
    assert sha256_of_folder(vae) != before
