"""Public LoRA files: any trainer's names, and alpha wherever it is kept."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from soraxla.checkpoints.wan.adapter import Adapter
from tests.checkpoints.wan import spellings
from tests.golden.wan import part

MODEL = part("model")
SHAPES = {name: tensor.shape for name, tensor in MODEL.items()}
PAIRS = spellings.pairs()
RANK, ALPHA = len(next(iter(PAIRS.values()))[0]), 12


def merged(path):
    adapter = Adapter(path, SHAPES)
    return {name: adapter.add(name, tensor) for name, tensor in MODEL.items()}


def written(tmp_path, tensors, metadata=None):
    path = tmp_path / "adapter.safetensors"
    save_file(tensors, path, metadata=metadata)
    return path


def expected(scale=1.0):
    """The model plus the LoRA, with nothing of the code under test."""
    found = dict(MODEL)
    for layer, (a, b) in PAIRS.items():
        found[f"{layer}.weight"] = MODEL[f"{layer}.weight"] + scale * (b @ a)
    return found


def check(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("spelling", spellings.same_by_value())
def test_one_lora_in_any_spelling_is_one_model(tmp_path, spelling):
    tensors = spellings.same_by_value()[spelling]
    check(merged(written(tmp_path, tensors)), expected())


@pytest.mark.parametrize("kind", spellings.of_another_formula())
def test_another_formula_is_refused_by_its_name(tmp_path, kind):
    path = written(tmp_path, spellings.of_another_formula()[kind])
    with pytest.raises(ValueError, match=f"is {kind.split()[0]} .*cannot be merged"):
        Adapter(path, SHAPES)


@pytest.mark.parametrize(
    ("name", "target", "shape"),
    [
        ("blocks.0.self_attn.q.diff_b", "blocks.0.attn1.to_q.bias", (24,)),
        ("blocks.0.self_attn.norm_q.diff", "blocks.0.attn1.norm_q.weight", (24,)),
        ("blocks.1.norm3.diff", "blocks.1.norm2.weight", (24,)),
        ("patch_embedding.diff", "patch_embedding.weight", None),
        ("blocks.0.diff_m", "blocks.0.scale_shift_table", (1, 6, 24)),
        ("head.diff_m", "scale_shift_table", (1, 2, 24)),
    ],
)
@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_changes_of_norms_biases_and_tables_are_added(
    tmp_path, name, target, shape, prefix
):
    layer, _, role = name.rpartition(".")
    layer = layer if prefix.endswith(".") else layer.replace(".", "_")
    change = np.full(shape or SHAPES[target], 0.5, np.float32)
    tensors = spellings.same_by_value()["comfy_down_up"]
    path = written(tmp_path, tensors | {f"{prefix}{layer}.{role}": change})
    wanted = expected()
    wanted[target] = wanted[target] + change
    check(merged(path), wanted)


def test_a_bias_of_the_product_has_its_scale(tmp_path):
    layer = next(iter(PAIRS))
    path = written(
        tmp_path,
        spellings.named(PAIRS, "transformer.")
        | {
            f"transformer.{layer}.lora_B.bias": np.ones(24, np.float32),
            f"transformer.{layer}.alpha": np.array(2.0 * RANK, np.float32),
        },
    )
    change = merged(path)[f"{layer}.bias"] - MODEL[f"{layer}.bias"]
    np.testing.assert_allclose(change, 2.0, atol=1e-6)


def test_a_lora_of_the_patch_embedding_is_merged(tmp_path):
    rng = np.random.default_rng(0)
    width, *inside = SHAPES["patch_embedding.weight"]
    a = rng.normal(size=(2, *inside)).astype(np.float32)
    b = rng.normal(size=(width, 2, 1, 1, 1)).astype(np.float32)
    pair = {"patch_embedding": (a, b)}
    path = written(tmp_path, spellings.kohya(pair))
    change = merged(path)["patch_embedding.weight"] - MODEL["patch_embedding.weight"]
    product = np.einsum("or,rcthw->octhw", b[..., 0, 0, 0], a)
    np.testing.assert_allclose(change, product, atol=1e-5)


# --- Alpha ------------------------------------------------------------------------

UNSCALED = spellings.named(PAIRS, "transformer.")


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        (None, 1.0),
        ({"format": "pt"}, 1.0),
        ({"lora_alpha": ALPHA, "r": RANK}, ALPHA / RANK),
        ({"transformer.lora_alpha": ALPHA, "transformer.r": RANK}, ALPHA / RANK),
        ({"lora_alpha": ALPHA, "use_rslora": True}, ALPHA / RANK**0.5),
        ({"lora_alpha": 1, "alpha_pattern": {"blocks.*": ALPHA}}, ALPHA / RANK),
        ({"lora_alpha": ALPHA, "alpha_pattern": {"to_x": 1}}, ALPHA / RANK),
        ({"ss_network_alpha": str(ALPHA), "ss_network_dim": str(RANK)}, ALPHA / RANK),
        ({"ss_network_alpha": "None"}, 1.0),
    ],
)
def test_alpha_of_the_header_scales(tmp_path, metadata, scale):
    if metadata and not metadata.keys() & {"format", "ss_network_alpha"}:
        metadata = {"lora_adapter_metadata": json.dumps(metadata)}
    check(merged(written(tmp_path, UNSCALED, metadata)), expected(scale))


@pytest.mark.parametrize("named", ["folder", "file"])
def test_alpha_beside_a_file_of_peft_scales(tmp_path, named):
    tensors = spellings.named(PAIRS, "base_model.model.")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "._adapter_model.safetensors").write_bytes(b"\0\5\26\7")
    given = tmp_path if named == "folder" else tmp_path / "adapter_model.safetensors"
    check(merged(given), expected(ALPHA / RANK))


def test_an_alpha_tensor_comes_before_the_header(tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 99})}
    tensors = UNSCALED | {
        f"transformer.{layer}.alpha": np.array(ALPHA, np.float32) for layer in PAIRS
    }
    check(merged(written(tmp_path, tensors, metadata)), expected(ALPHA / RANK))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "lora_adapter_metadata in its header: is damaged"),
        ("[]", "not an object"),
        ('{"lora_alpha": "much"}', "has an alpha that is no number"),
        ('{"use_dora": true}', "is DoRA"),
        ('{"peft_type": "LOKR"}', "is LOKR"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, text, message):
    path = written(tmp_path, UNSCALED, {"lora_adapter_metadata": text})
    with pytest.raises(ValueError, match=message) as error:
        Adapter(path, SHAPES)
    assert "\n" not in str(error.value)


def test_a_folder_of_several_files_is_refused(tmp_path):
    for name in ("a", "b"):
        save_file(UNSCALED, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="holds 2 safetensors files, expected one"):
        Adapter(tmp_path, SHAPES)
