"""Trainings with additions against one without, at equal FLOPs.

    soraxla worlds --world occlusion --clips 4000 --pictures 1 --out pictures
    soraxla prepare --source tfds:soraxla_worlds/occlusion --data-dir pictures \
        --vae VAE --features simulator --out pictures_data
    python -m benchmarks.additions --data pictures_data --out runs/additions

Every addition trains with every seed for as many steps as cost the FLOPs of `--steps`
plain ones. The table has the loss of held-out clips by time, and its difference from
the plain training's with the 95 % interval of a paired bootstrap over clips. An
interrupted command goes on where it was.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.dataset import open_dataset
from data_pipelines.token_features import SIMULATED_WIDTH
from soraxla.core.config import to_dict
from soraxla.evals.val_loss import ValLoss
from soraxla.models.dit.config import dit_config
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.features import AlignmentConfig, SelfFlowConfig
from soraxla.training.loop import LoopConfig, train
from soraxla.training.optim import OptimConfig
from soraxla.training.routing import RoutingConfig
from soraxla.training.run import open_experiment
from soraxla.training.summary import packed_work

ADDITIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "routing": {"routing": RoutingConfig(first=1, last=1)},
    "self_flow": {"self_flow": SelfFlowConfig()},
    "alignment": {"alignment": AlignmentConfig(width=SIMULATED_WIDTH)},
}
BINS, RESAMPLES = 5, 2000


def plain(args: argparse.Namespace, seed: int) -> DiTTrainingConfig:
    """Returns the training without additions: a plain transformer."""
    width = args.width
    model = dit_config(
        "xs",
        layers=args.layers,
        width=width,
        heads=max(1, width // 64),
        mlp_width=4 * width,
        patch=tuple(args.patch),
        shift=2.5,
        remat="none",
    )
    optim = OptimConfig(
        learning_rate=1e-3, muon_learning_rate=8e-3, warmup_steps=20, ema_decay=0.995
    )
    row = args.row_length
    pack = PackConfig(row_length=row, text_length=row, max_segments=max(1, row // 16))
    return DiTTrainingConfig(
        step=DiTStepConfig(model=model, optim=optim, seed=seed),
        pack=pack,
        loop=LoopConfig(steps=args.steps, checkpoint_every=1000),
        eval_share=args.eval_share,
    )


def trained(cfg: DiTTrainingConfig, args: argparse.Namespace, folder: Path):
    """Trains, and returns the losses (clips, bins) of the EMA on held-out clips."""
    opened = open_experiment(
        {"kind": "dit", **to_dict(cfg)}, data=args.data, workdir=folder
    )
    made = opened.experiment
    state = train(made, cfg.loop, folder)
    if int(state.step) < cfg.loop.steps:
        raise SystemExit("interrupted; the same command goes on from here")
    assert made.context is not None
    with jax.set_mesh(made.mesh):
        context = made.context(state, step=cfg.loop.steps, workdir=folder)
        return ValLoss(every=1, clips=args.clips, bins=BINS).clip_losses(context)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the mean over clips, by bootstrap."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def with_equal_flops(
    cfg: DiTTrainingConfig, addition: dict[str, Any], sizes: Any
) -> DiTTrainingConfig:
    """Returns the training with an addition, for the FLOPs of `cfg`."""
    made = replace(cfg, step=replace(cfg.step, **addition))
    flops = [packed_work(each, sizes).flops or 1 for each in (cfg, made)]
    steps = max(1, round(cfg.loop.steps * flops[0] / flops[1]))
    return replace(made, loop=replace(cfg.loop, steps=steps))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--additions", nargs="+", choices=ADDITIONS, default=ADDITIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    for name, value in (
        *(("steps", 2000), ("layers", 6), ("width", 192)),
        *(("row-length", 2560), ("clips", 256)),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--patch", type=int, nargs=3, default=[1, 1, 1])
    parser.add_argument("--eval-share", type=float, default=0.1)
    args = parser.parse_args(argv)
    sizes = open_dataset(args.data).sizes
    report: list[dict[str, Any]] = []
    bins = " | ".join(f"t {(i + 0.5) / BINS:.1f}" for i in range(BINS))
    print(f"| addition | seed | steps | {bins} | all | against none |")
    print("|---" * (BINS + 5) + "|")
    for seed in args.seeds:
        base = plain(args, seed)
        against = None
        for name in dict.fromkeys(["none", *args.additions]):
            cfg = with_equal_flops(base, ADDITIONS[name], sizes)
            losses = trained(cfg, args, args.out / f"{name}_{seed}")
            against = losses if against is None else against
            apart = (losses - against).mean(axis=1)
            low, high = interval(apart)
            mean = losses.mean(axis=0)
            columns = " | ".join(f"{x:.4f}" for x in [*mean, mean.mean()])
            difference = f"{apart.mean():+.4f} ({low:+.4f} to {high:+.4f})"
            steps = cfg.loop.steps
            print(f"| {name} | {seed} | {steps} | {columns} | {difference} |")
            report.append(
                {
                    "addition": name,
                    "seed": seed,
                    "settings": asdict(cfg.step),
                    "steps": steps,
                    "losses": losses.tolist(),
                    "interval": [low, high],
                }
            )
            report_file = args.out / "additions.json"
            report_file.write_text(json.dumps(report, default=str) + "\n")


if __name__ == "__main__":
    main()
