"""`soraxla export`: weights as safetensors, in our layout or in diffusers'."""

import argparse

from soraxla.cli.following import say_generate, say_next, say_prepare
from soraxla.core.errors import UserError
from soraxla.core.paths import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "layout",
        nargs="?",
        choices=("soraxla", "wan"),
        default="soraxla",
        help="wan: folders that diffusers loads (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=place,
        help="training folder, whose EMA is exported; for wan also a model folder; "
        "local or gs://…",
    )
    parser.add_argument(
        "--out", required=True, type=place, help="new model folder, local or gs://…"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the weights (default: float32; for wan unchanged)",
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="export the adapter of a LoRA training, not merged (wan only)",
    )


def run(args: argparse.Namespace) -> None:
    import jax

    from soraxla.checkpoints.training_folder import is_training_folder, verify_newest
    from soraxla.parallel.mesh import sampling_mesh

    if args.adapter and args.layout != "wan":
        raise UserError("--adapter is a file for diffusers; use export wan --adapter")
    if is_training_folder(args.checkpoint):
        verify_newest(args.checkpoint)
    kind = None
    with jax.set_mesh(sampling_mesh()):
        if args.layout == "wan":
            _export_wan(args)
        else:
            kind = _export_ours(args)
    print(args.out)
    if args.layout == "wan" and args.adapter:
        words = ("--from", "WAN", "--adapter", args.out, "--out", "MODEL")
        say_next("soraxla", "import", "wan", *words)
    elif args.layout == "wan":
        words = ("--from", args.out, "--out", "MODEL")
        say_next("soraxla", "import", "wan", *words)
    elif (args.out / "dit").is_dir():
        say_generate(args.out)
    elif kind == "captioner":
        words = ("--checkpoint", args.out, "--clips", "CLIPS")
        say_next("soraxla", "caption", "apply", *words)
    else:
        say_prepare(args.out)


def _export_wan(args: argparse.Namespace) -> None:
    from soraxla.checkpoints.wan.adapter_export import export_adapter
    from soraxla.checkpoints.wan.convert import OURS, export_wan

    if args.dtype is not None:
        raise UserError("export wan keeps the types of the weights; leave out --dtype")
    if args.adapter:
        export_adapter(args.checkpoint, args.out)
        return
    left = export_wan(args.checkpoint, args.out)
    if left:
        names = ", ".join(left)
        print(f"not in diffusers, written to transformer/{OURS}: {names}")


def _export_ours(args: argparse.Namespace) -> str:
    """Exports a training's model, and returns its kind."""
    from soraxla.checkpoints.load import load_captioner, load_dit, load_vae
    from soraxla.checkpoints.model_folder import read_config, save_folder
    from soraxla.checkpoints.training_folder import read_settings
    from soraxla.files.atomic_folder import atomic_folder
    from soraxla.files.disk import copy_tree

    out, dtype = args.out, args.dtype or "float32"
    if out.exists():
        raise UserError(f"{out}: exists; remove it or choose another --out")
    kind = read_settings(args.checkpoint).get("kind", "dit")
    if kind != "dit":
        load = {"vae": load_vae, "captioner": load_captioner}[kind]
        model = load(args.checkpoint)
        save_folder(out, model.params, model.config, dtype=dtype)
    else:
        read_config(args.checkpoint / "vae", "vae")
        dit = load_dit(args.checkpoint)
        with atomic_folder(out) as partial:
            save_folder(partial / "dit", dit.params, dit.config, dtype=dtype)
            copy_tree(args.checkpoint / "vae", partial / "vae")
    return kind
