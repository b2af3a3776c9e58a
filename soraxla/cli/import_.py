"""`soraxla import`: public weights to a folder that every command takes."""

import argparse

from soraxla.cli.following import say_generate, say_prepare
from soraxla.core.paths import place

URLS = ("text_encoder",)  # a name whose path may be an address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", choices=("wan",), help="whose weights")
    parser.add_argument(
        "--from",
        dest="sources",
        required=True,
        type=place,
        nargs="+",
        metavar="PATH",
        help="diffusers' folder, hf:ORG/NAME, gs://…, or the file or folder of each "
        "part",
    )
    parser.add_argument(
        "--adapter",
        type=place,
        metavar="FILE",
        help="LoRA of this model to merge into it: a safetensors file, its folder, or "
        "hf:ORG/NAME",
    )
    parser.add_argument(
        "--out", required=True, type=place, help="new model folder, local or gs://…"
    )
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="encoder of the prompts, such as umt5:PATH (default: the one "
        "in diffusers' "
        "folder)",
    )


def run(args: argparse.Namespace) -> None:
    from soraxla.checkpoints.wan import import_wan

    import_wan(
        args.sources, args.out, text_encoder=args.text_encoder, adapter=args.adapter
    )
    print(args.out)
    if (args.out / "dit").is_dir():
        say_generate(args.out)
    else:
        say_prepare(args.out / "vae")
