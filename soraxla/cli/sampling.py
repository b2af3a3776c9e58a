"""The options of sampling that `generate` and `worldbench` share."""

import argparse
from typing import TYPE_CHECKING

from soraxla.assets import WORLDS

if TYPE_CHECKING:
    from soraxla.generation.request import SamplingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--steps", type=int, default=30, help="sampler steps (default: %(default)s)"
    )
    group.add_argument(
        "--solver",
        default="euler",
        help="euler, ddim, euler-ancestral, heun, wan-euler or unipc "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--cfg-scale",
        type=float,
        default=4.0,
        help="classifier-free guidance; 1 is none (default: %(default)s)",
    )
    group.add_argument(
        "--cfg-interval",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LO", "HI"),
        help="times between which guidance acts; 1 is noise (default: 0 1)",
    )
    group.add_argument(
        "--image-scale",
        type=float,
        default=1.0,
        help="guidance towards the condition tokens; 1 is none (default: %(default)s)",
    )
    group.add_argument(
        "--condition-noise",
        type=float,
        default=0.0,
        metavar="T",
        help="time to which condition tokens are noised for the network (default: 0; "
        f"{WORLDS.condition_noise} for `generate` without --checkpoint)",
    )
    group.add_argument(
        "--negative-prompt", default="", help="prompt that guidance leads away from"
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another seed gives another video (default: %(default)s)",
    )


def settings_of(args: argparse.Namespace) -> "SamplingConfig":
    from soraxla.generation.request import SamplingConfig

    return SamplingConfig(
        steps=args.steps,
        solver=args.solver,
        cfg_scale=args.cfg_scale,
        cfg_interval=tuple(args.cfg_interval),
        image_scale=args.image_scale,
        condition_noise=args.condition_noise,
        negative_prompt=args.negative_prompt,
        seed=args.seed,
    )
