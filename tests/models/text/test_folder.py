"""Folders of weights: every form that is published loads; what is wrong is one line."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from soraxla.core.trees import named_leaves
from soraxla.models.text import bert, clip, t5
from tests.models.text.golden import read_case, weights, write_model

UMT5 = read_case("t5", "umt5")
BERT = read_case("bert", "bert")


def assert_same(ours, theirs):
    ours, theirs = named_leaves(ours), named_leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name])


def rewrite(folder, change):
    """The folder's tensors after `change`, a function of their dict."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(folder, parts=3):
    """The folder's one file as shards with an index."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    index = {}
    for i in range(parts):
        file = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        save_file({name: tensors[name] for name in names[i::parts]}, folder / file)
        index |= dict.fromkeys(names[i::parts], file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_are_the_one_file(tmp_path):
    whole, _ = t5.load_umt5(write_model(tmp_path, UMT5), "float32")
    shard(tmp_path)
    assert_same(t5.load_umt5(tmp_path, "float32")[0], whole)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_other_float_types_are_read(kind, tmp_path):
    write_model(tmp_path, UMT5)
    rounded = {k: v.astype(kind).astype(np.float32) for k, v in weights(UMT5).items()}
    save_file(rounded, tmp_path / "model.safetensors")
    expected, _ = t5.load_umt5(tmp_path, "float32")
    rewrite(tmp_path, lambda t: t.update({k: v.astype(kind) for k, v in t.items()}))
    assert_same(t5.load_umt5(tmp_path, "float32")[0], expected)


def test_the_encoder_of_a_whole_t5_is_read(tmp_path):
    """A decoder and a head beside it, and the embedding under its other name."""
    expected, _ = t5.load_umt5(write_model(tmp_path, UMT5), "float32")

    def change(tensors):
        shared = tensors.pop("shared.weight")
        tensors["encoder.embed_tokens.weight"] = shared
        tensors["lm_head.weight"] = shared + 1
        tensors["decoder.block.0.layer.0.SelfAttention.q.weight"] = shared

    rewrite(tmp_path, change)
    assert_same(t5.load_umt5(tmp_path, "float32")[0], expected)


def test_a_bert_with_heads_and_old_names_is_read(tmp_path):
    expected, _ = bert.load(write_model(tmp_path, BERT), "float32")

    def change(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old = old.replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[f"bert.{old}"] = tensors.pop(name)
        tensors["cls.predictions.bias"] = np.zeros(60, np.float32)
        tensors["bert.embeddings.position_ids"] = np.arange(64)[None]

    rewrite(tmp_path, change)
    assert_same(bert.load(tmp_path, "float32")[0], expected)


def test_a_text_tower_is_read_from_a_folder_of_both_or_of_itself(tmp_path):
    case = read_case("clip", "clip")
    both, cfg = clip.load(write_model(tmp_path / "both", case), "float32")
    config = json.loads(str(case["config"]))["text_config"]
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").write_text(json.dumps(config))
    tensors = {k: v for k, v in weights(case).items() if k.startswith("text_model.")}
    save_file(tensors, alone / "model.safetensors")
    text, same = clip.load(alone, "float32")
    assert cfg == same
    assert_same(text, both)


def test_settings_left_out_are_the_reference_s_defaults(tmp_path):
    """A `config.json` may hold only what differs from them."""
    (tmp_path / "config.json").write_text('{"model_type": "umt5"}')
    with pytest.raises(ValueError, match=r"no \.safetensors files here"):
        t5.load_umt5(tmp_path, "float32")
    cfg = t5.UMT5Config()
    assert (cfg.vocab_size, cfg.d_model, cfg.num_layers) == (250112, 512, 8)
    assert cfg.gated and cfg.activation == "gelu_new" and cfg.biased_layers
    assert t5.T5Config().activation == "relu" and not t5.T5Config().biased_layers


def edit_config(**changes):
    def break_it(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return break_it


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lost_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def half_shard(folder):
    shard(folder)
    truncated_file = folder / "model-00002-of-00003.safetensors"
    truncated_file.write_bytes(truncated_file.read_bytes()[:200])


def wrong_index(folder):
    shard(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = "encoder.final_layer_norm.weight"
    index["weight_map"][name] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))


def lost_tensor(folder):
    without(NORM)(folder)
    shard(folder)


def without(*names):
    return lambda folder: rewrite(folder, lambda t: [t.pop(n) for n in names])


def with_tensor(name, value):
    return lambda folder: rewrite(folder, lambda t: t.update({name: value}))


NORM = "encoder.final_layer_norm.weight"
QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"
WRONG = [
    (only_pickle, r"pytorch_model\.bin: a pickle.*-Diffusers"),
    (truncated, "model.safetensors: not a whole safetensors file"),
    (lost_shard, "1 of 3 files .* missing, such as model-00002-of.*download them"),
    (half_shard, "model-00002-of-00003.safetensors: not a whole"),
    (wrong_index, r"missing, such as \.\./elsewhere\.safetensors"),
    (lost_tensor, f"1 missing, such as '{NORM}'"),
    (without(NORM), f"1 missing.*'{NORM}'"),
    (without(NORM, QUERY), "2 missing"),
    (with_tensor("lora.a", np.zeros(3, np.float32)), "1 unexpected.*'lora.a'"),
    (with_tensor(NORM, np.zeros(23, np.float32)), r"1 mis-shaped.*\(23,\)"),
    (with_tensor(QUERY, np.zeros((24, 24, 1), np.float32)), "1 mis-shaped"),
    (with_tensor(QUERY, np.zeros((24, 24), np.int8)), r"is I8, quantised.*unquantised"),
    (with_tensor(QUERY, np.zeros((24, 24))), "is F64, quantised or not a weight"),
    (edit_config(num_layers=4), "missing.*than the configuration says"),
    (edit_config(num_layers=2), "10 unexpected"),
    (edit_config(d_ff=41), "9 mis-shaped"),
    (edit_config(d_ff="wide"), "config.json: setting 'd_ff' is 'wide', expected int"),
    (edit_config(model_type="t5"), "model_type is 't5', expected 'umt5'"),
    (edit_config(quantization_config={"bits": 4}), "quantised, expected float32"),
    (edit_config(feed_forward_proj="gated-tanh"), "unknown feed_forward_proj"),
    (lambda f: (f / "config.json").write_text("{"), "config.json: damaged"),
    (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
]


@pytest.mark.parametrize(("break_it", "message"), WRONG)
def test_a_wrong_folder_is_refused_in_one_line(break_it, message, tmp_path):
    t5.load_umt5(write_model(tmp_path, UMT5), "float32")
    break_it(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        t5.load_umt5(tmp_path, "float32")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'x'}: no such")):
        bert.load(tmp_path / "x", "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "expected 'absolute'"),
        ({"num_attention_heads": 5}, "no multiple"),
        ({"hidden_act": "swish2"}, "unknown hidden_act 'swish2'"),
    ],
)
def test_a_bert_that_is_another_is_refused(change, message, tmp_path):
    write_model(tmp_path, BERT)
    edit_config(**change)(tmp_path)
    with pytest.raises(ValueError, match=f"config.json: .*{message}"):
        bert.load(tmp_path, "float32")
