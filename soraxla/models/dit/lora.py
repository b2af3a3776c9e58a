"""Low-rank adapters (LoRA, arXiv 2106.09685): a frozen kernel plus a small product.

Adapters are a tree `{…: {q: {a, b}}}` with the paths of the layers that they adapt.
Stacked blocks have one adapter per layer, stacked.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, PyTree

from soraxla.core.errors import UserError
from soraxla.core.trees import named_leaves, nested
from soraxla.core.types import Array

_KERNEL = ".kernel"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """The layers that are adapted, and by how much.

    Attributes:
        rank: columns of `a`, rows of `b`.
        alpha: scale of the update, divided by the rank.
        targets: patterns of layer names, such as `blocks.*_attn.[qv]` or
            `blocks.mlp.*`; `*` matches any characters.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("blocks.*_attn.[qkvo]",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora.rank is {self.rank}, expected at least 1")
        if not 0 < self.alpha < float("inf"):
            raise UserError(
                f"lora.alpha is {self.alpha}, expected a number above 0, such as the "
                f"rank, {self.rank}"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def targeted(
    params: PyTree, targets: tuple[str, ...]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the kernels that the patterns match, by their layers' names.

    Raises:
        UserError: a pattern matches no layer.
    """
    layers = {
        name.removesuffix(_KERNEL): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in named_leaves(params).items()
        if name.endswith(_KERNEL)
    }
    for pattern in targets or ("",):
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise UserError(
                f"lora.targets: {pattern!r} is no layer of this model; expected "
                f"patterns of {', '.join(layers)}"
            )
    return {
        name: kernel
        for name, kernel in layers.items()
        if any(fnmatchcase(name, pattern) for pattern in targets)
    }


def init(key: PRNGKeyArray, params: PyTree, lora: LoRAConfig) -> PyTree:
    """Returns adapters without effect: `a` uniform in ±1/√fan-in, as in peft, `b` zero.

    Args:
        params: of the model, or their shapes.

    Raises:
        UserError: a target is no layer of the model.
    """
    adapters = {}
    for i, (name, kernel) in enumerate(targeted(params, lora.targets).items()):
        *stack, fan_in, fan_out = kernel.shape
        bound = fan_in**-0.5
        adapters[f"{name}.a"] = jax.random.uniform(
            jax.random.fold_in(key, i),
            (*stack, fan_in, lora.rank),
            minval=-bound,
            maxval=bound,
        )
        adapters[f"{name}.b"] = jnp.zeros((*stack, lora.rank, fan_out))
    return nested(adapters)


def scaled(adapters: PyTree, lora: LoRAConfig) -> PyTree:
    """Multiplies `b` by alpha / rank, as `soraxla.models.dit.apply` expects."""
    named = named_leaves(adapters)
    return nested(
        {n: lora.scale * x if n.endswith(".b") else x for n, x in named.items()}
    )


def merge(params: PyTree, adapters: PyTree, lora: LoRAConfig) -> PyTree:
    """Returns the parameters with kernel + (alpha / rank) · a·b for adapted kernels."""
    named, parts = named_leaves(params), named_leaves(adapters)
    for name in (name.removesuffix(".a") for name in parts if name.endswith(".a")):
        product = _product(parts[f"{name}.a"], parts[f"{name}.b"])
        kernel = named[name + _KERNEL]
        named[name + _KERNEL] = kernel + lora.scale * product
    return nested(named)


def merged(trained: PyTree, base: PyTree, lora: LoRAConfig | None) -> PyTree:
    """Returns the model's parameters from those of a training state.

    Args:
        trained: a state's `params` or `ema`: all parameters, or with LoRA adapters.
        base: the frozen parameters that adapters add to; None without LoRA.
    """
    return trained if lora is None else merge(base, trained, lora)


def _product(
    a: Float[Array, "*layers i r"], b: Float[Array, "*layers r o"]
) -> Float[Array, "*layers i o"]:
    # By default, a TPU rounds the operands of fp32 products to bf16.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
