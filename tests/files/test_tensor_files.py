"""Leaves built from files: the same on any devices, and no byte is read in vain."""

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import save_file

from soraxla.checkpoints.model_folder import abstract_params, save_folder
from soraxla.checkpoints.wan.convert import open_transformer
from soraxla.core.trees import is_stacked, named_leaves
from soraxla.files import tensor_files
from soraxla.files.tensor_files import load_tensors, open_tensors
from soraxla.models.text import clip_vision, t5
from tests import tiny
from tests.golden.wan import write_transformer
from tests.models.text.golden import read_case, write_model


@pytest.fixture
def reads(monkeypatch):
    """The bytes of every part that is read from a file."""
    sizes = []

    class Part:
        def __init__(self, part):
            self.part = part
            self.get_shape, self.get_dtype = part.get_shape, part.get_dtype

        def __getitem__(self, index):
            array = self.part[index]
            sizes.append(array.nbytes)
            return array

    class Opened:
        def __init__(self, *args, **kwargs):
            self.file = safe_open(*args, **kwargs)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            self.file.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_slice(self, name):
            return Part(self.file.get_slice(name))

    monkeypatch.setattr(tensor_files, "safe_open", Opened)
    return sizes


def sharded(abstract):
    """Shards each leaf over a mesh of 4×2, by its last two sides where they divide.

    Leaves of one side, or of odd sides, are whole along an axis.
    """
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"))

    def of_leaf(leaf):
        axes = [None] * len(leaf.shape)
        for axis, name, parts in ((-2, "fsdp", 4), (-1, "tensor", 2)):
            if len(leaf.shape) >= -axis and leaf.shape[axis] % parts == 0:
                axes[axis] = name
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(of_leaf, abstract)


def assert_laid_out(params, shardings, expected):
    laid, expected = named_leaves(params), named_leaves(expected)
    assert laid.keys() == expected.keys()
    for name, sharding in named_leaves(shardings).items():
        assert laid[name].sharding == sharding
        assert laid[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(laid[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transformer's weights, stored in bfloat16."""
    folder = tmp_path_factory.mktemp("weights") / "dit"
    loaded = tiny.loaded_dit()
    save_folder(folder, loaded.params, loaded.config, dtype="bfloat16")
    return folder


def test_a_sharded_model_is_the_model_and_is_read_once(folder, reads):
    """Parts that several devices hold too: none is read twice, none with its
    neighbours."""
    stored = open_tensors(sorted(folder.glob("*.safetensors")))
    assert not reads
    abstract = abstract_params(tiny.DIT)
    whole = load_tensors(stored.__getitem__, abstract)
    assert sum(reads) == sum(p.nbytes for p in jax.tree.leaves(whole)) // 2
    total = sum(reads)
    reads.clear()
    shardings = sharded(abstract)
    assert_laid_out(
        load_tensors(stored.__getitem__, abstract, shardings), shardings, whole
    )
    assert sum(reads) == total
    shares = {
        int(np.prod(placed.shard_shape(leaf.shape)[is_stacked(name) :])) * 2
        for (name, leaf), placed in zip(
            named_leaves(abstract).items(), jax.tree.leaves(shardings), strict=True
        )
    }
    assert set(reads) == shares


def test_layers_may_lie_on_several_devices(folder, reads):
    stored = open_tensors(sorted(folder.glob("*.safetensors")))
    abstract = {"blocks": abstract_params(tiny.DIT)["blocks"]}
    mesh = jax.make_mesh((2,), ("layer",), devices=jax.devices()[:2])
    placed = NamedSharding(mesh, PartitionSpec("layer"))
    shardings = jax.tree.map(lambda _: placed, abstract)
    whole = load_tensors(stored.__getitem__, abstract)
    total = sum(reads)
    reads.clear()
    params = load_tensors(stored.__getitem__, abstract, shardings)
    assert_laid_out(params, shardings, whole)
    assert sum(reads) == total


def test_wans_matrices_are_turned_over_and_then_cut(tmp_path):
    source = open_transformer(write_transformer(tmp_path / "transformer"))
    shardings = sharded(source.abstract)
    params = load_tensors(source.read, source.abstract, shardings)
    assert_laid_out(params, shardings, source.load().params)


@pytest.mark.parametrize(
    ("case", "load"),
    [(("t5", "umt5"), t5.load_umt5), (("clip", "clip"), clip_vision.load)],
)
def test_an_encoders_parts_are_read_where_they_lie(
    case, load, tmp_path, monkeypatch, reads
):
    """The file holds its matrices transposed; whole kernels are read of the picture
    tower's convolution."""
    folder = write_model(tmp_path, read_case(*case))
    whole, _ = load(folder, "bfloat16")
    total, shardings = sum(reads), sharded(whole)
    patches = named_leaves(whole).get("patches.kernel")
    monkeypatch.setattr(
        "soraxla.models.text.folder.load_tensors",
        lambda read, abstract, _: load_tensors(read, abstract, shardings),
    )
    reads.clear()
    params, _ = load(folder, "bfloat16")
    assert_laid_out(params, shardings, whole)
    again = 0 if patches is None else 3 * 4 * patches.size  # 4 parts of each kernel
    assert sum(reads) == total + again


def test_a_part_of_a_tensor_is_that_part(tmp_path):
    array = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"a": array.astype(ml_dtypes.bfloat16), "alpha": np.float32([3])[0, ...]}
    save_file(arrays, tmp_path / "a.safetensors")
    stored = open_tensors([tmp_path / "a.safetensors"])
    assert (stored["a"].shape, stored["a"].dtype) == ((2, 3, 4), "BF16")
    index = (slice(1, 2), slice(None), slice(1, 3))
    for part in (index, (), index[:1]):
        np.testing.assert_array_equal(stored["a"][part], arrays["a"][part])
    assert stored["alpha"][()] == 3.0


@pytest.mark.parametrize("beside", ["._w.safetensors", "w.fp16.safetensors"])
def test_twins_of_a_weight_file_are_left_out(tmp_path, beside):
    """A file that macOS leaves beside another, and weights in another type."""
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    if beside.startswith("."):
        (tmp_path / beside).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X" + bytes(4080))
    else:
        save_file({"x": np.ones(3, np.float16)}, tmp_path / beside)
    assert tensor_files.model_files(tmp_path) == [tmp_path / "w.safetensors"]
    index = '{"weight_map": {"x": "w.safetensors"}}'
    (tmp_path / "w.safetensors.index.json").write_text(index)
    (tmp_path / "._w.safetensors.index.json").write_bytes(b"\0\5\26\7")
    variant = index.replace("w.safe", "w.fp16.safe")
    (tmp_path / "w.fp16.safetensors.index.json").write_text(variant)
    assert tensor_files.model_files(tmp_path) == [tmp_path / "w.safetensors"]


def test_a_variant_by_itself_is_read(tmp_path):
    save_file({"x": np.ones(3, np.float16)}, tmp_path / "w.fp16.safetensors")
    assert [p.name for p in tensor_files.model_files(tmp_path)] == [
        "w.fp16.safetensors"
    ]


def test_two_whole_models_in_a_folder_are_refused(tmp_path):
    for name in ("w.safetensors", "w (1).safetensors"):
        save_file({"x": np.ones(3, np.float32)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"'x' is also in w \(1\)\.safetensors; give"):
        open_tensors(tensor_files.model_files(tmp_path))
