"""`soraxla export`: the weights of a training folder, as safetensors."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="training folder; its EMA is taken",
    )
    parser.add_argument("--out", required=True, type=Path, help="new weights folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the stored weights (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    import shutil

    from soraxla.checkpoint import read_settings
    from soraxla.weights import load_dit, load_vae, read_config, save_folder

    out = args.out
    if out.exists():
        raise ValueError(f"{out}: exists; remove it or choose another --out")
    if read_settings(args.checkpoint).get("kind") == "vae":
        vae = load_vae(args.checkpoint)
        save_folder(out, vae.params, vae.config, dtype=args.dtype)
    else:
        read_config(args.checkpoint / "vae", "vae")
        dit = load_dit(args.checkpoint)
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            save_folder(partial / "dit", dit.params, dit.config, dtype=args.dtype)
            shutil.copytree(args.checkpoint / "vae", partial / "vae")
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print(out)
