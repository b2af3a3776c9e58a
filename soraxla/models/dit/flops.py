"""Counted work of the diffusion transformer: what a step must do, whatever it runs on.

Real tokens and their own segments only: no padding, no foreign blocks, no remat. A
product of (a, b) by (b, c) is 2abc.
"""

from collections.abc import Sequence

from soraxla.models.dit.config import DiTConfig


def forward_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int]
) -> int:
    """Of one forward pass over segments of so many tokens, with texts of so many."""
    return text_flops(cfg, text_tokens) + token_flops(cfg, tokens, text_tokens)


def token_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int]
) -> int:
    """What a sampler computes at every step: all but what the text alone gives."""
    d, layers, all_tokens = cfg.width, cfg.layers, sum(tokens)
    # Self-attention q, k, v, o; cross-attention q, o; the MLP.
    linear = (8 * d**2 + 4 * d**2 + 4 * d * cfg.mlp_width) * all_tokens * layers
    texts = [_attended(cfg, n) for n in text_tokens]
    pairs = sum(n * (n + m) for n, m in zip(tokens, texts, strict=True))
    features = 96 if cfg.position_embed else 0
    # Beside the embedding and the head, two gates and the queries and keys of a copy.
    ends = (6 if cfg.input_gate else 2) * cfg.patch_dim + features
    ends = 2 * ends * d * all_tokens
    if cfg.input_gate:
        ends += 4 * cfg.patch_dim * sum(n * n for n in tokens)
    if cfg.local_layers:
        at_hand = 3 if cfg.input_gate else 2
        local = _local_flops(cfg, cfg.local_layers, 11, at_hand, cfg.width)
        ends += local * all_tokens
    if cfg.forecast_layers:
        forecast = _local_flops(cfg, cfg.forecast_layers, 9, 2, 2)
        ends += (forecast + 2 * 2 * cfg.patch_dim * d) * all_tokens
    time = 2 * (256 * d + d**2 + 6 * d**2) * len(tokens)
    return linear + 4 * d * layers * pairs + ends + time


def _local_flops(
    cfg: DiTConfig, layers: int, taps: int, at_hand: int, hidden: int
) -> int:
    """Of one token's convolutions, told `hidden` numbers and some latents at hand."""
    time, height, width = cfg.patch
    c, channels = cfg.local_width, time * cfg.latent_channels
    a_latent = (at_hand + 1) * channels * c + layers * (4 * c**2 + taps * c)
    return 2 * height * width * (a_latent + hidden * c)


def text_flops(cfg: DiTConfig, text_tokens: Sequence[int]) -> int:
    """The text's embedding, its refiner, and its keys and values in every layer."""
    d, n = cfg.width, sum(text_tokens)
    embed = 2 * (cfg.text_width * d + d**2) * n
    squares = sum(m**2 for m in text_tokens)
    refiner = cfg.text_refiner_layers * (16 * d**2 * n + 4 * d * squares)
    keys_and_values = (
        4 * d**2 * cfg.layers * sum(_attended(cfg, m) for m in text_tokens)
    )
    return embed + refiner + keys_and_values


def train_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int]
) -> int:
    """Of one training step: a backward pass is two forward passes."""
    return 3 * forward_flops(cfg, tokens, text_tokens)


def _attended(cfg: DiTConfig, text_tokens: int) -> int:
    """Text keys of a segment; all pads together are one."""
    padded = cfg.text_pad_to is not None and text_tokens < cfg.text_pad_to
    return text_tokens + padded
