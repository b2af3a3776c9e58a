"""One LoRA of the fixture's transformer, in the spellings that trainers write."""

import numpy as np

from tests.golden.wan import part

# diffusers' names of Wan's layers, and Wan's own.
ORIGINAL = {
    **{f"attn1.to_{x}": f"self_attn.{x}" for x in "qkv"},
    **{f"attn2.to_{x}": f"cross_attn.{x}" for x in "qkv"},
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


def pairs():
    """The matrices (a, b) of each layer, in diffusers' names."""
    given, suffix = part("adapter"), ".lora_A.weight"
    layers = [name.removesuffix(suffix) for name in given if name.endswith(suffix)]
    return {
        layer.removeprefix("transformer."): (
            given[f"{layer}.lora_A.weight"],
            given[f"{layer}.lora_B.weight"],
        )
        for layer in layers
    }


def original(layer):
    """Wan's name of a layer."""
    _, block, rest = layer.split(".", 2)
    return f"blocks.{block}.{ORIGINAL[rest]}"


def named(layers, prefix="", a="lora_A", b="lora_B", suffix=".weight"):
    return {
        f"{prefix}{layer}.{name}{suffix}": matrix
        for layer, pair in layers.items()
        for name, matrix in zip((a, b), pair, strict=True)
    }


def kohya(layers, alpha=None):
    made = {}
    for layer, pair in layers.items():
        stem = "lora_unet_" + layer.replace(".", "_")
        made |= named({stem: pair}, a="lora_down", b="lora_up")
        if alpha is not None:
            made[f"{stem}.alpha"] = np.array(alpha, np.float32)
    return made


def same_by_value():
    """The one LoRA by the name of its spelling."""
    theirs = pairs()
    ours = {original(layer): pair for layer, pair in theirs.items()}
    rank = len(next(iter(theirs.values()))[0])
    twice = {layer: (a, 2 * b) for layer, (a, b) in ours.items()}  # at half the alpha
    half = np.array(rank / 2, np.float32)
    down_up = ("lora_down", "lora_up")
    return {
        "reference": named(theirs, "transformer."),
        "wan_prefix": named(ours, "diffusion_model."),
        "no_prefix": named(ours),
        "musubi": kohya(ours),
        "musubi_alpha": kohya(twice, rank / 2),
        "kohya_double_underscore": named(ours, "lora_unet__", *down_up),
        "comfy_down_up": named(ours, "diffusion_model.", *down_up),
        "comfy_down_up_alpha": named(twice, "diffusion_model.", *down_up)
        | {f"diffusion_model.{layer}.alpha": half for layer in twice},
        "diffsynth": named(ours, suffix=".default.weight"),
        "peft_model": named(ours, "base_model.model."),
        "peft_model_diffusers": named(theirs, "base_model.model."),
        "diffusers_processor": named(theirs, "", "lora.down", "lora.up"),
        "half_dotted": {
            name.replace("unet_blocks_0_", "unet_blocks_0.").replace(
                "cross_attn_", "cross_attn."
            ): tensor
            for name, tensor in kohya(ours).items()
        },
        "lora_bias": named(theirs, "transformer.")
        | {
            f"transformer.{layer}.lora_B.bias": np.zeros(len(b), np.float32)
            for layer, (a, b) in theirs.items()
        },
    }


def of_another_formula():
    """Adapters that are no LoRA, by the name that an error gives them."""
    theirs = pairs()
    ours = {original(layer): pair for layer, pair in theirs.items()}
    first = next(iter(ours)).replace(".", "_")
    return {
        "DoRA": kohya(ours)
        | {
            f"lora_unet_{layer.replace('.', '_')}.dora_scale": np.ones(
                (len(b), 1), np.float32
            )
            for layer, (a, b) in ours.items()
        },
        "DoRA of PEFT": named(theirs, "transformer.")
        | {
            f"transformer.{layer}.lora_magnitude_vector": np.ones(len(b), np.float32)
            for layer, (a, b) in theirs.items()
        },
        "LoKr": {
            f"lora_unet_{first}.lokr_w1": np.ones((4, 6), np.float32),
            f"lora_unet_{first}.lokr_w2": np.ones((6, 4), np.float32),
        },
    }
