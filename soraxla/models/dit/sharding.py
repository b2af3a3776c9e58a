"""Sharding rules of the transformer's parameters."""

from soraxla.models.dit.lora import LoRAConfig
from soraxla.parallel.mesh import REPLICATED, Rules

# Parameter to logical axes. Vectors are replicated: gathering them would cost more.
BLOCK_RULES: Rules = (
    (r"(\w*attn)\.[qkv]\.kernel", ("embed", "heads")),
    (r"(\w*attn)\.([qkv]\.bias|norm_[qk]\.scale)", ("heads",)),
    (r"(\w*attn)\.o\.kernel", ("heads", "embed")),
    (r"mlp\.in_proj\.kernel", ("embed", "mlp")),
    (r"mlp\.in_proj\.bias", ("mlp",)),
    (r"mlp\.out_proj\.kernel", ("mlp", "embed")),
)
RULES: Rules = (
    *BLOCK_RULES,
    (
        r"(time_out|time_proj|head|(forecast_)?gate|text_embed\.out_proj|(local|forecast)\..*)\.kernel",
        ("embed", None),
    ),
    (r"(\w+_embed|time_in|text_embed\.in_proj)\.kernel", (None, "embed")),
    (r".*(bias|scale|table|taps|known_embed)", ()),
)


def trained_rules(lora: LoRAConfig | None) -> Rules:
    """Returns the rules of trained parameters; small adapters are replicated."""
    return RULES if lora is None else REPLICATED
