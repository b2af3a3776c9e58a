"""FLOPs of the diffusion transformer that a step needs on any hardware.

They count real tokens and their segments only: no padding, no other segments' blocks,
no remat. A product of (a, b) by (b, c) is 2abc.
"""

from collections.abc import Sequence

from soraxla.models.dit.config import DiTConfig


def forward_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int]
) -> int:
    """Returns the FLOPs of one forward pass over segments of these token counts."""
    return text_flops(cfg, text_tokens) + token_flops(cfg, tokens, text_tokens)


def token_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int]
) -> int:
    """Returns the FLOPs of a sampler's step: all but those of the text only."""
    d, all_tokens = cfg.width, sum(tokens)
    blocks = cfg.layers * block_flops(cfg, tokens, text_tokens)
    features = 96 if cfg.position_embed else 0
    # The embedding and the head; a gated input adds two gates, queries and keys.
    ends = (6 if cfg.input_gate else 2) * cfg.patch_dim + features
    ends = 2 * ends * d * all_tokens
    if cfg.input_gate:
        ends += 4 * cfg.patch_dim * sum(n * n for n in tokens)
    if cfg.local_layers:
        candidates = 3 if cfg.input_gate else 2
        local = _local_flops(cfg, cfg.local_layers, 11, candidates, cfg.width)
        ends += local * all_tokens
    if cfg.forecast_layers:
        forecast = _local_flops(cfg, cfg.forecast_layers, 9, 2, 2)
        ends += (forecast + 2 * 2 * cfg.patch_dim * d) * all_tokens
    time = 2 * (256 * d + d**2 + 6 * d**2) * len(tokens)
    return blocks + ends + time


def block_flops(
    cfg: DiTConfig, tokens: Sequence[int], text_tokens: Sequence[int]
) -> int:
    """Returns the FLOPs of the tokens in one block; keys and values of text are not."""
    d = cfg.width
    # Self-attention q, k, v, o; cross-attention q, o; the MLP.
    linear = (8 * d**2 + 4 * d**2 + 4 * d * cfg.mlp_width) * sum(tokens)
    texts = [_attended(cfg, n) for n in text_tokens]
    return linear + 4 * d * sum(n * (n + m) for n, m in zip(tokens, texts, strict=True))


def _local_flops(
    cfg: DiTConfig, layers: int, taps: int, candidates: int, hidden: int
) -> int:
    """Returns the FLOPs of one token's convolutions over `candidates` latents.

    `hidden` is the width of the state beside them.
    """
    time, height, width = cfg.patch
    c, channels = cfg.local_width, time * cfg.latent_channels
    a_latent = (candidates + 1) * channels * c + layers * (4 * c**2 + taps * c)
    return 2 * height * width * (a_latent + hidden * c)


def text_flops(cfg: DiTConfig, text_tokens: Sequence[int]) -> int:
    """Returns the FLOPs of the text's embedding, refiner, and keys and values."""
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
    """Returns the FLOPs of a training step: a backward pass is two forward passes."""
    return 3 * forward_flops(cfg, tokens, text_tokens)


def _attended(cfg: DiTConfig, text_tokens: int) -> int:
    """Returns a segment's number of text keys; all pads together are one."""
    padded = cfg.text_pad_to is not None and text_tokens < cfg.text_pad_to
    return text_tokens + padded
