"""The options of sampling that `generate` and `worldbench` share."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soraxla.generation.request import SamplingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--steps", type=int, help="sampler steps (default: the model's, or 30)"
    )
    group.add_argument(
        "--solver",
        help="euler, ddim, euler-ancestral, heun, wan-euler or unipc "
        "(default: the model's, or euler)",
    )
    group.add_argument(
        "--cfg-scale",
        type=float,
        help="classifier-free guidance; 1 is none (default: the model's, or 4)",
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
        metavar="T",
        help="time to which condition tokens are noised for the network (default: "
        "the model's, or 0)",
    )
    group.add_argument("--negative-prompt", help="prompt that guidance leads away from")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another seed gives another video (default: %(default)s)",
    )


# Options that a model's folder may have a default of.
OF_THE_MODEL = ("steps", "solver", "cfg_scale", "condition_noise", "negative_prompt")


def settings_of(
    args: argparse.Namespace, defaults: Mapping[str, Any] | None = None
) -> "SamplingConfig":
    """Returns the settings of the options; of others, `defaults` or the class's."""
    from soraxla.generation.request import SamplingConfig

    asked = {name: getattr(args, name) for name in OF_THE_MODEL}
    asked = {name: value for name, value in asked.items() if value is not None}
    return SamplingConfig(
        cfg_interval=tuple(args.cfg_interval),
        image_scale=args.image_scale,
        seed=args.seed,
        **{**(defaults or {}), **asked},
    )
