"""FLOPs of a training step, with its additions; see `soraxla.models.dit.flops`."""

from collections.abc import Sequence

from soraxla.models.dit.config import DiTConfig
from soraxla.models.dit.flops import (
    block_flops,
    forward_flops,
    train_flops,
)
from soraxla.training.dit_step_config import DiTStepConfig
from soraxla.training.features import block_at
from soraxla.training.heads import head_flops


def step_flops(
    cfg: DiTStepConfig,
    tokens: Sequence[int],
    kept: Sequence[int],
    text_tokens: Sequence[int],
) -> int:
    """Returns the FLOPs of a step over segments of these token counts.

    Args:
        kept: tokens of each segment that compute all blocks.
    """
    model = cfg.model
    flops = train_flops(model, tokens, text_tokens)
    if cfg.routing is not None:
        skipped = block_flops(model, tokens, text_tokens)
        skipped -= block_flops(model, kept, text_tokens)
        flops -= 3 * len(cfg.routing.middle(model.layers)) * skipped
    if cfg.self_flow is not None:
        depth = block_at(cfg.self_flow.teacher, model.layers)
        flops += _features_flops(model, tokens, text_tokens, blocks=depth)
        flops += 3 * head_flops(model.width, model.width) * sum(tokens)
    if cfg.alignment is not None:
        flops += 3 * head_flops(model.width, cfg.alignment.width) * sum(tokens)
    return flops


def _features_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int], *, blocks: int
) -> int:
    """Returns the FLOPs of a forward pass up to a block, the head among them."""
    left = (cfg.layers - blocks) * block_flops(cfg, tokens, text_tokens)
    # The text's keys and values of the blocks that are left are not computed.
    keys_and_values = 4 * cfg.width**2 * (cfg.layers - blocks) * sum(text_tokens)
    return forward_flops(cfg, tokens, text_tokens) - left - keys_and_values
