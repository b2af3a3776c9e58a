"""`soraxla export`: the weights of a training folder, as safetensors."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")


def run(args: argparse.Namespace) -> None:
    import shutil

    from soraxla.checkpoint import read_settings
    from soraxla.weights import load_dit, load_vae, save_folder

    if args.out.exists():
        raise ValueError(f"{args.out}: exists; remove it or choose another --out")
    if read_settings(args.checkpoint).get("kind") == "vae":
        loaded = load_vae(args.checkpoint)
        save_folder(args.out, loaded.params, loaded.config, dtype=args.dtype)
    else:
        loaded = load_dit(args.checkpoint)
        partial = args.out.with_name(f".{args.out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        save_folder(partial / "dit", loaded.params, loaded.config, dtype=args.dtype)
        shutil.copytree(args.checkpoint / "vae", partial / "vae")
        partial.rename(args.out)
    print(args.out)
