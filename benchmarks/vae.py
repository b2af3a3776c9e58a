"""Encoding and decoding by a small Wan VAE against diffusers' AutoencoderKLWan.

    python -m benchmarks.vae --peer PYTHON [--dtype float32] [--json FILE]

Both sides have a clip of 17 × 96 × 96 pixels and the same weights. Diffusers works
latent frame by latent frame, soraxla on the clip as one chunk, as
`soraxla.generation.vae_streaming` does at this size. Torch runs in each of its forms
with two layouts of memory, and its fastest counts. PYTHON has `benchmarks/peers.txt`
installed.
"""

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import wan
from benchmarks.harness import (
    Contender,
    Peer,
    check_equal,
    matmul,
    race,
    ratio,
    timed,
    write_report,
)
from soraxla.models import vae
from soraxla.parallel.compiler import jit

FRAMES, SIDE = 17, 96
FORMS = {"float32": ("fp32",), "bfloat16": ("autocast", "bf16 weights")}
LAYOUTS = ("", ", channels last")
# Relative: of fp32 sums in another order, and of bf16's 8 bits over 30 layers.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def inputs() -> dict[str, np.ndarray]:
    """Returns pixels and latents in the peer's layout, channels before frames."""
    rng = np.random.default_rng(0)
    latents = (1, wan.VAE.latent_channels, 1 + (FRAMES - 1) // 4, SIDE // 8, SIDE // 8)
    return {
        "video": rng.uniform(-1, 1, (1, 3, FRAMES, SIDE, SIDE)).astype(np.float32),
        "z": rng.standard_normal(latents, np.float32),
    }


def main(python: str, dtype: str, rounds: int, file: Path | None) -> None:
    model = dataclasses.replace(wan.VAE, dtype=dtype)  # pyright: ignore
    arrays = inputs()
    video, z = (arrays[k].transpose(0, 2, 3, 4, 1) for k in ("video", "z"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = wan.write_models(folder)["vae"]
        np.savez(folder / "inputs.npz", **arrays)  # pyright: ignore
        encode = jit(
            lambda params, video: vae.encode(params, model, video)[0], convolves=True
        )
        decode = jit(lambda params, z: vae.decode(params, model, z), convolves=True)
        ours = {
            "encode": partial(encode, params, video),
            "decode": partial(decode, params, z),
        }
        with Peer(python, "benchmarks.torch_wan", ["vae", name]) as peer:
            contenders: dict[str, Contender] = {
                "matmul": matmul(dtype),
                "torch matmul": peer.case(f"matmul {dtype}"),
            }
            errors = {}
            forms = [f"{f}{layout}" for f in FORMS[dtype] for layout in LAYOUTS]
            for what, run in ours.items():
                out = {"out": np.asarray(run()).transpose(0, 4, 1, 2, 3)}
                contenders[f"soraxla {what}"] = timed(run)
                for form in forms:
                    case = f"{what}, {form}"
                    errors[case] = check_equal(
                        out,
                        peer.outputs(case, folder / "out.npz"),
                        tolerance=TOLERANCE[dtype],
                    )
                    contenders[f"torch {case}"] = peer.case(case)
            timings = race(contenders, rounds=rounds)
            results: dict[str, Any] = {"dtype": dtype, "errors": errors}
            for what in ours:
                for form in forms:
                    results[f"torch {what}, {form} over soraxla"] = ratio(
                        timings[f"torch {what}, {form}"], timings[f"soraxla {what}"]
                    )
            write_report(file, results, timings=timings, peer=peer)


if __name__ == "__main__":
    wan.run_race(main, __doc__ or "", FORMS)
