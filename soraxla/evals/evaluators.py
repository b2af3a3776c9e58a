"""The table of evaluators: names of `loop.evaluators` and their settings."""

from collections.abc import Mapping
from typing import Any

from soraxla.core.config import build, nearest
from soraxla.core.errors import UserError
from soraxla.evals.evaluator import Evaluator
from soraxla.evals.preview import Preview
from soraxla.evals.samples import Samples
from soraxla.evals.val_loss import ValLoss

EVALUATORS: dict[str, type[Evaluator]] = {
    "preview": Preview,
    "val_loss": ValLoss,
    "samples": Samples,
}


def build_evaluators(settings: Mapping[str, Any]) -> dict[str, Evaluator | None]:
    """Returns the evaluators of `loop.evaluators`; None stays None.

    Raises:
        UserError: an unknown evaluator, or settings that it refuses; one line that
            names the key.
    """
    built: dict[str, Evaluator | None] = {}
    for name, values in settings.items():
        key = f"loop.evaluators.{name}"
        if name not in EVALUATORS:
            raise UserError(f"unknown evaluator {key!r}{nearest(name, EVALUATORS)}")
        if values is None or isinstance(values, EVALUATORS[name]):
            built[name] = values
        elif isinstance(values, Mapping):
            built[name] = build(EVALUATORS[name], values, f"{key}.")
        else:
            raise UserError(
                f"setting {key!r} is {values!r}, expected a group of keys, or None to "
                "remove it"
            )
    return built


def check_evaluators(
    evaluators: Mapping[str, Evaluator | None], kind: str, eval_share: float = 0.0
) -> None:
    """Raises UserError if a training of a "dit" or a "vae" cannot run one of them."""
    for name, evaluator in evaluators.items():
        if not evaluator or not evaluator.every:
            continue
        if kind not in evaluator.kinds:
            raise UserError(
                f"loop.evaluators.{name} measures no {kind}; set it to None"
            )
        if evaluator.needs_held_out and not eval_share:
            raise UserError(
                f"loop.evaluators.{name} measures clips that are not trained on, but "
                "eval_share is 0: set eval_share, such as 0.05, or loop.evaluators."
                f"{name} to None"
            )
