"""`soraxla prepare`: media and captions in, a dataset of latents out."""

import argparse
from pathlib import Path

from soraxla.cli import group
from soraxla.cli.following import say_next


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        required=True,
        help="folder with captions.jsonl, captions.csv or a .txt beside each file; "
        "or clips.parquet[/SPLIT] of soraxla curate; or tfds:NAME[/SPLIT]; or "
        "wds:FOLDER or wds:PATTERN of tar archives; or datasets:FOLDER[/SPLIT] of "
        "Hugging Face's datasets; or lerobot:FOLDER; or 'samples', the ten clips and "
        "pictures shipped",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder of TFDS datasets (default: TFDS_DATA_DIR, or TFDS's own), or of "
        "the films of clips.parquet",
    )
    _add_captions(parser)
    parser.add_argument("--out", required=True, type=Path, help="dataset folder")
    parser.add_argument(
        "--vae", type=Path, help="VAE folder (default: the small VAE that is shipped)"
    )
    parser.add_argument(
        "--text-encoder",
        default="hashed",
        metavar="NAME",
        help="hashed, minilm, or umt5:PATH, t5:PATH, clip:PATH, bert:PATH of local "
        "weights or of hf:ORG/NAME[/FOLDER] (default: %(default)s)",
    )
    parser.add_argument(
        "--conditions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also encode the condition latents of other tasks than text "
        "to video: ends, "
        "single frames, clips with holes (default: yes)",
    )
    _add_choices(parser)
    _add_shares(parser)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose samples and what is stored of them."""
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=32768,
        help="split clips that have more tokens (default: %(default)s, room for 81 "
        "frames of 832x480)",
    )
    _add_resampling(parser)
    parser.add_argument(
        "--max-bad",
        type=float,
        default=0.05,
        help="share of media that may be missing or unusable; they are left out "
        "(default: %(default)s)",
    )

    parser.add_argument(
        "--features",
        metavar="SPEC",
        help="also store features of each token, for step.alignment: simulator (of "
        "tfds:soraxla_worlds), or dinov2:FOLDER of local weights or hf:ORG/NAME",
    )


def _add_captions(parser: argparse.ArgumentParser) -> None:
    """Adds the choice between several captions of a sample."""
    parser.add_argument(
        "--caption-column",
        metavar="NAME",
        help="feature of a TFDS dataset, column of a Hugging Face dataset, or entry of "
        "KEY.json in an archive, that holds the captions (default: the first usual "
        "name)",
    )
    parser.add_argument(
        "--caption-mix",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the clips of clips.parquet that keep the caption they had "
        "before a captioner's (default: %(default)s)",
    )


def _add_resampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help="scale frames down whose longer side has more pixels (default: keep all)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        metavar="RATE",
        help="of clips with a higher rate, keep the frames nearest to this one's times "
        "(default: keep all); other clips keep their rate",
    )


def _add_shares(parser: argparse.ArgumentParser) -> None:
    """Adds the options by which several commands prepare one dataset."""
    parser.add_argument(
        "--shard-mib",
        type=float,
        default=256,
        metavar="MIB",
        help="size of a file of samples, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--worker",
        type=_worker,
        metavar="I/N",
        help="encode a share of the files, I from 0 to N-1, into a folder that N "
        "commands on any machines share; the last to end completes the dataset",
    )
    group.add_arguments(parser)


def _worker(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 0 to N-1")
    return int(number), int(count)


def run(args: argparse.Namespace) -> None:
    group.join_group(args)

    # Imported last: the processes of a group join before JAX is asked for devices.
    from soraxla.tools.prepare import prepare_dataset

    dataset = prepare_dataset(
        args.source,
        args.out,
        vae=args.vae,
        text_encoder=args.text_encoder,
        data_dir=args.data_dir,
        conditions=args.conditions,
        caption_mix=args.caption_mix,
        caption_column=args.caption_column,
        max_tokens=args.max_tokens,
        max_side=args.max_side,
        fps=args.fps,
        max_bad=args.max_bad,
        features=args.features,
        shard_bytes=round(args.shard_mib * 2**20),
        worker=args.worker,
    )
    if dataset is None:
        print(f"{args.out}: this worker's files are written, those of others are not")
        return
    card = dataset.card
    print(f"{args.out}: {card['samples']} samples, {card['tokens']:,} tokens")
    if card["skipped"]:
        print(
            f"{args.out}: {card['skipped']} files could not be used and were left out; "
            f"{args.out / 'skipped.jsonl'} lists them with the reasons"
        )
    if cut := card.get("cut_clips", 0):  # older datasets do not count them
        print(
            f"{args.out}: {cut} captioned clips have more than {card['max_tokens']} "
            "tokens and were cut into pieces, each with the whole caption; a larger "
            "--max-tokens keeps them whole"
        )
    if card["text_encoder"].startswith("umt5"):  # Wan's, so a model of it is tuned
        words = ("--checkpoint", "MODEL", "--data", args.out, "--media", args.source)
        say_next("soraxla", "doctor", *words)
    else:
        words = ("--config", "dit:xs", "--data", args.out, "--workdir", "FOLDER")
        say_next("soraxla", "train", *words)
