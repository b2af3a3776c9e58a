"""Measures a model of simulated worlds, and writes the numbers into its card.

    python -m benchmarks.card --out runs/card

WorldBench scores each family that the model can be asked. Then the model generates the
prompts of new clips of its worlds, which `soraxla evaluate` compares with these clips;
it also measures the VAE on them. The tables replace the card's text between the lines
`<!-- measured -->` and `<!-- end -->`. An interrupted command goes on.
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from benchmarks.harness import conditions
from soraxla.assets import worlds_model
from soraxla.cli.main import main as soraxla

FAMILIES = (
    *("permanence", "physics", "interaction", "text"),
    *("candle", "glass", "treadmill", "bites", "count"),
)
# The way to ask a model that was trained on windows of 17 frames.
ASKED = ("--image-scale", "2", "--window", "17", "--overlap", "9")
SEED = 977  # of clips that no dataset has
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"


def measured(checkpoint: Path, out: Path, clips: int, set_clips: int) -> dict[str, Any]:
    """Returns the results of WorldBench, of the generated clips and of the VAE."""
    vae, worlds, data = checkpoint / "vae", out / "worlds", out / "data"
    real = out / "generated_clips/reference"
    source = ("--source", "tfds:soraxla_worlds/flat", "--data-dir", worlds)
    steps = {
        "worldbench": (
            *("worldbench", "--checkpoint", checkpoint, "--clips", clips, *ASKED),
            *("--families", *FAMILIES, "--out"),
        ),
        "worlds": (
            *("worlds", "--world", "flat", "--clips", set_clips, "--pictures", 0),
            *("--seed", SEED, "--out"),
        ),
        "data": ("prepare", *source, "--vae", vae, "--no-conditions", "--out"),
        "generated": (
            *("evaluate", "run", "--checkpoint", checkpoint, "--data", data),
            *("--clips", set_clips, "--metrics", "frechet,mmd,flicker,frame_change"),
            *("--features", "worlds", "--out"),
        ),
        "vae": (
            *("evaluate", "run", "--vae", vae, "--data", real),
            *("--metrics", "psnr,ssim,flicker", "--out"),
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, words in steps.items():
        if not (out / name).exists() and soraxla([*map(str, (*words, out / name))]):
            raise SystemExit(f"soraxla {words[0]} failed")
    return {
        name: json.loads((out / name / "results.json").read_text(encoding="utf-8"))
        for name in ("worldbench", "generated", "vae")
    }


def tables(found: dict[str, Any], command: str) -> str:
    """Returns the section of the card, in Markdown."""
    at, now = conditions(), datetime.date.today()
    machine = f"{at['machine']['cores']} cores of an {at['machine']['processor']}"
    lines = [
        f"Measured on {now} by `{command}` (commit {at['commit'][:7]}, {machine}). "
        "Intervals are those of a bootstrap over clips at 95 %. A normalised score is "
        "0 at the best of the floors and 1 at the ceiling.",
        "",
        "| WorldBench | clips | value | ceiling | floors | normalised |",
        "|---|---|---|---|---|---|",
    ]
    for family, scores in found["worldbench"]["families"].items():
        for name, measure in scores["measures"].items():
            floors = ", ".join(f"{k} {v:.2f}" for k, v in measure["floors"].items())
            columns = (
                f"{family}: {name} ({measure['unit']})",
                f"{measure['clips']}",
                _interval(measure["value"]),
                f"{measure['ceiling']:.2f}",
                floors,
                _interval(measure["normalised"]),
            )
            lines.append(f"| {' | '.join(columns)} |")
    for title, name in (("generated clips", "generated"), ("VAE", "vae")):
        lines += ["", f"| {title} | n | value | better |", "|---|---|---|---|"]
        for metric, value in found[name]["metrics"].items():
            n, better = value["n"], value["better"]
            lines.append(f"| {metric} | {n} | {_interval(value)} | {better} |")
    return "\n".join([*lines, ""])


def _interval(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "–"
    if value.get("low") is None:
        return f"{value['value']:.3g}"
    return f"{value['value']:.3g} ({value['low']:.3g} … {value['high']:.3g})"


def marked(card: Path) -> str:
    """Returns the text of a card that has the lines around the tables."""
    text = card.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{card}: has no lines {BEGIN.strip()} and {END.strip()}")
    return text


def written(card: Path, section: str) -> None:
    """Replaces the part of a card that this command writes."""
    text = marked(card)
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    card.write_text(f"{head}{BEGIN}{section}{END}{tail}", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=worlds_model())
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=16, help="of each family")
    parser.add_argument("--set-clips", type=int, default=64, help="of each set")
    parser.add_argument("--card", type=Path, help="default: the checkpoint's README.md")
    args = parser.parse_args(argv)
    card = args.card or args.checkpoint / "README.md"
    marked(card)  # before an hour of measurements
    found = measured(args.checkpoint, args.out, args.clips, args.set_clips)
    command = f"python -m benchmarks.card --out runs/card --clips {args.clips}"
    command += f" --set-clips {args.set_clips}"
    section = tables(found, command)
    written(card, section)
    print(section)


if __name__ == "__main__":
    main()
