"""`soraxla prepare`: media and captions in, a dataset of latents out."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        required=True,
        help="folder with captions.jsonl, captions.csv or a .txt beside each file; "
        "or tfds:NAME[/SPLIT]; or 'samples', the ten clips and pictures shipped",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder of TFDS datasets (default: TFDS_DATA_DIR, or TFDS's own)",
    )
    parser.add_argument("--out", required=True, type=Path, help="dataset folder")
    parser.add_argument(
        "--vae", type=Path, help="VAE folder (default: the small one shipped)"
    )
    parser.add_argument(
        "--text-encoder",
        default="hashed",
        metavar="NAME",
        help="hashed, minilm, or umt5:PATH, t5:PATH, clip:PATH, bert:PATH of local "
        "weights (default: %(default)s)",
    )
    parser.add_argument(
        "--conditions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep also what trains other tasks than text to video: ends, single "
        "frames, pictures with holes, each encoded alone (default: yes)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=16384,
        help="longer clips are split, in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--max-bad",
        type=float,
        default=0.05,
        help="share of unreadable media to accept (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    import jax

    from data_pipelines import SAMPLES
    from data_pipelines.prepare import prepare
    from soraxla.assets import small_vae
    from soraxla.checkpoints.load import load_vae, vae_as_folder
    from soraxla.generation.vae_streaming import encode_clip
    from soraxla.models.text import load_text_encoder
    from soraxla.parallel.mesh import sampling_mesh

    with jax.set_mesh(sampling_mesh()):
        encoder = load_text_encoder(args.text_encoder)
        with vae_as_folder(args.vae or small_vae()) as (folder, sha256):
            loaded = load_vae(folder)
            card = prepare(
                SAMPLES if args.source == "samples" else args.source,
                args.out,
                data_dir=args.data_dir,
                encode_video=lambda video: encode_clip(
                    loaded.params, loaded.model, video
                ),
                encode_text=encoder,
                vae_dir=folder,
                vae_sha256=sha256,
                text_encoder=encoder.name,
                vae_spatial=loaded.model.spatial,
                conditions=args.conditions,
                max_tokens=args.max_tokens,
                max_bad=args.max_bad,
            )
    print(f"{args.out}: {card['samples']} samples, {card['tokens']:,} tokens")
