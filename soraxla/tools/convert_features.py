"""Makes model folders of the networks that are published as pickles.

Run once per network, where torch is installed, on files of publishers that you trust: a
TorchScript file is a program.

    python -m soraxla.tools.convert_features inception \\
        pt_inception-2015-12-05-6726825d.pth weights/inception
    python -m soraxla.tools.convert_features i3d i3d_torchscript.pt weights/i3d
    python -m soraxla.tools.convert_features raft raft-things.pth weights/raft
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from soraxla.core.errors import UserError
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import save_tensors
from soraxla.models.vision import i3d, inception, raft
from soraxla.models.vision.convolutions import NORM

State = Mapping[str, np.ndarray]
CHECKPOINT_EPS = 1e-5  # of batch norm, in the code that reads I3D's state dict
SCRIPT_EPS = (1e-3, 1e-5)  # of batch norm: TensorFlow's and PyTorch's
TOLERANCE = 1e-4  # relative, of the converted network

# Suffixes of the tensors of batch norm in different files.
_ENDINGS = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta"),
    "running_mean": ("mean",),
    "running_var": ("var", "variance"),
}


def main(words: list[str] | None = None) -> int:
    """Converts a file; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m soraxla.tools.convert_features",
        description="Makes a model folder of a feature network, under torch.",
    )
    parser.add_argument("network", choices=("inception", "i3d", "raft"))
    parser.add_argument("file", type=Path, help="the published pickle or TorchScript")
    parser.add_argument("folder", type=Path, help="a new folder, for the weights")
    args = parser.parse_args(words)
    try:
        convert(args.network, args.file, args.folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.folder)
    return 0


def convert(network: str, file: Path, folder: Path) -> None:
    """Writes `config.json` and `model.safetensors` of a network into a new folder.

    Raises:
        UserError: torch or the file is missing, the file holds another network, or the
            converted network computes other features than the file's.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; download it")
    state, script = _read(file)
    config: dict[str, Any] = {"model_type": inception.KIND}
    if network == "inception":
        tensors = inception_tensors(state, file)
    elif network == "raft":
        tensors, config = raft_tensors(state, file), {"model_type": raft.KIND}
    elif script is None:
        tensors = i3d_tensors(state, file)
        config = {"model_type": i3d.KIND, "batch_norm_eps": CHECKPOINT_EPS}
    else:
        tensors = i3d_tensors(ordered(state, file, i3d.layers(i3d.I3DConfig())), file)
        config = {"model_type": i3d.KIND, "batch_norm_eps": SCRIPT_EPS[0]}
    with atomic_folder(folder) as partial:
        save_tensors(tensors, partial / "model.safetensors")
        if script is not None:
            config["batch_norm_eps"] = _checked_eps(script, partial, config, file)
        _write_config(partial, config)


def inception_tensors(state: State, file: Path) -> State:
    """Returns the tensors of `models.vision.inception` in a state dict.

    Raises:
        UserError: it is another network's.
    """
    names = [
        f"{layer}.{part}"
        for layer in inception.layers(inception.InceptionConfig())
        for part in ("conv.weight", *(f"bn.{part}" for part in NORM))
    ]
    return _picked(state, names, "FID's Inception", file)


def i3d_tensors(state: State, file: Path) -> State:
    """Returns the tensors of `models.vision.i3d` in a state dict.

    Raises:
        UserError: it is another network's.
    """
    names = [f"{i3d.CLASSES}.conv3d.{part}" for part in ("weight", "bias")]
    names += [
        f"{layer}.{part}"
        for layer in i3d.layers(i3d.I3DConfig())
        if layer != i3d.CLASSES
        for part in ("conv3d.weight", *(f"bn.{part}" for part in NORM))
    ]
    return _picked(state, names, "I3D", file)


def raft_tensors(state: State, file: Path) -> State:
    """Returns the tensors of `models.vision.raft` in a state dict.

    Raises:
        UserError: it is another network's.
    """
    cfg = raft.RAFTConfig()
    names = [f"{x}.{part}" for x in raft.layers(cfg) for part in ("weight", "bias")]
    names += [f"{norm}.{part}" for norm in raft.norms(cfg).values() for part in NORM]
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    return _picked(plain, names, "RAFT", file)


def _picked(state: State, names: list[str], network: str, file: Path) -> State:
    missing = [name for name in names if name not in state]
    if missing:
        raise UserError(
            f"{file}: holds another network than {network}: {len(missing)} of "
            f"{len(names)} tensors are missing, such as {missing[0]!r}; download it "
            "again"
        )
    return {name: np.ascontiguousarray(state[name], np.float32) for name in names}


def ordered(
    state: State, file: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Names the tensors of a scripted I3D, whose names differ between exports.

    Convolutions come in the order of the network, except for the layer of the classes;
    each precedes its batch norm. The order cannot tell branches of equal shape apart,
    so `convert` compares the network's features afterwards.

    Args:
        shapes: of the kernels by name, as `i3d.layers`.

    Raises:
        UserError: the shapes are not I3D's.
    """
    groups: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for name, value in state.items():
        value = np.asarray(value)
        if value.ndim == 5 and value.shape != (1, value.shape[1], 1, 1, 1):
            groups.append((value, {}))
        elif groups and value.size > 1 and (part := _part(name)):
            groups[-1][1][part] = value.reshape(-1)
    last = [group for group in groups if group[0].shape == shapes[i3d.CLASSES]]
    others = [group for group in groups if group[0].shape != shapes[i3d.CLASSES]]
    names = [name for name in shapes if name != i3d.CLASSES]
    if len(last) != 1 or [k.shape for k, _ in others] != [shapes[n] for n in names]:
        raise UserError(
            f"{file}: holds {len(groups)} convolutions, expected the {len(shapes)} of "
            "I3D with 400 classes, in order; download it again"
        )
    found = {f"{i3d.CLASSES}.conv3d.weight": last[0][0]}
    found[f"{i3d.CLASSES}.conv3d.bias"] = last[0][1]["bias"]
    for name, (kernel, norm) in zip(names, others, strict=True):
        found[f"{name}.conv3d.weight"] = kernel
        norm.setdefault("weight", np.ones(len(kernel), np.float32))
        found |= {f"{name}.bn.{part}": value for part, value in norm.items()}
    return found


def _part(name: str) -> str | None:
    for part, endings in _ENDINGS.items():
        if name.endswith(endings):
            return part
    return None


def _read(file: Path) -> tuple[State, Any]:
    """Returns the state of a file, and its module if it is TorchScript."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "torch is not installed; run `pip install torch`, or convert on another "
            "machine and copy the folder"
        ) from None
    script = None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # TorchScript, or no file of torch
        try:
            script = torch.jit.load(str(file), map_location="cpu").eval()
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise UserError(
                f"{file}: neither a state dict nor TorchScript ({reason}); download it "
                "again"
            ) from error
        state = script.state_dict()
    return {name: value.numpy() for name, value in state.items()}, script


def _checked_eps(
    script: Any, folder: Path, config: Mapping[str, Any], file: Path
) -> float:
    """Returns the ε of batch norm with which the folder computes the file's features.

    Raises:
        UserError: there is none.
    """
    import torch  # pyright: ignore[reportMissingImports]

    random = np.random.default_rng(0)
    video = random.integers(0, 256, (i3d.FRAMES, i3d.SIDE, i3d.SIDE, 3), np.uint8)
    x = torch.tensor(video.transpose(3, 0, 1, 2)[None].astype(np.float32))
    with torch.no_grad():
        expected = script(x, rescale=True, resize=True, return_features=True)
    expected, network = expected.numpy().reshape(1, -1), jax.jit(i3d.features)
    errors = {}
    for eps in SCRIPT_EPS:
        _write_config(folder, {**config, "batch_norm_eps": eps})
        params, _ = i3d.load(folder)
        found = np.asarray(network(params, i3d.preprocess(video)[None]))
        errors[eps] = float(np.abs(found - expected).max() / np.abs(expected).max())
    best = min(errors, key=lambda eps: errors[eps])
    if not errors[best] <= TOLERANCE:
        raise UserError(
            f"{file}: the converted network's features differ by {errors[best]:.1e} of "
            f"the largest, expected at most {TOLERANCE:.0e}; use StyleGAN-V's "
            "i3d_torchscript.pt, or the i3d_pretrained_400.pt of cd-fvd"
        )
    return best


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(dict(config), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
