"""diffusers' Wan in torch: the peer of train_step, sample_step and vae.

    PYTHON -m benchmarks.torch_wan train|sample|vae FOLDER

FOLDER holds the files of `benchmarks.wan.write_models` and `inputs.npz`. Every case has
the forms that torch offers: fp32; bf16 by autocast over fp32 weights, which are usually
trained so; and bf16 weights as diffusers loads them, whose gradients and moments are
bf16 too.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.nn import functional

from benchmarks.peer import Case, serve, torch_matmul

FORMS = {
    "fp32": (torch.float32, False),
    "autocast": (torch.float32, True),
    "bf16 weights": (torch.bfloat16, False),
}


def load(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    return cls.from_pretrained(folder, torch_dtype=dtype)


class Trainer:
    """AdamW, gradients clipped by global norm and a moving average of the weights."""

    def __init__(self, folder: Path, form: str, inputs: dict, *, checkpointing: bool):
        dtype, self.autocast = FORMS[form]
        self.model = load(WanTransformer3DModel, folder / "wan/transformer", dtype)
        self.model.train()
        if checkpointing:
            self.model.enable_gradient_checkpointing()
        self.params = list(self.model.parameters())
        self.ema = [p.detach().clone() for p in self.params]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.text = inputs["text"].to(dtype)
        self.inputs, self.dtype = inputs, dtype

    def loss(self, x, target, t) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            pred = self.model(
                x.to(self.dtype), 1000.0 * t, self.text, return_dict=False
            )[0]
        return functional.mse_loss(pred.float(), target), pred

    def step(self) -> float:
        x0 = self.inputs["x0"]
        t = torch.sigmoid(torch.randn(len(x0)))
        eps = torch.randn_like(x0)
        loss, _ = self.loss((1.0 - t) * x0 + t * eps, eps - x0, t)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 0.001)
        return loss.item()

    def check(self) -> dict[str, torch.Tensor]:
        loss, pred = self.loss(*(self.inputs[k] for k in ("x", "target", "t")))
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad.float() for p in self.params])
        self.optimizer.zero_grad(set_to_none=True)
        return {"pred": pred.detach(), "loss": loss.detach(), "grad_norm": norm}


def train(folder: Path, inputs: dict) -> Iterator[tuple[str, Case]]:
    for remat in (False, True):
        for form in FORMS:
            trainer = Trainer(folder, form, inputs, checkpointing=remat)
            name = f"{form}, remat" if remat else form
            yield name, (trainer.step, lambda _: {})
            yield f"check {name}", (trainer.check, to_numpy)


def sample(folder: Path, inputs: dict) -> Iterator[tuple[str, Case]]:
    """Yields Euler steps under guidance, both prompts in one batch or in turn."""
    for form in FORMS:
        dtype, autocast = FORMS[form]
        model = load(WanTransformer3DModel, folder / "wan/transformer", dtype).eval()
        text = inputs["text"].to(dtype)

        def predict(x, t, text, model=model, dtype=dtype, autocast=autocast):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return model(x.to(dtype), t, text, return_dict=False)[0].float()

        def together(x, t, predict=predict, text=text):
            return predict(x.expand(2, *x.shape[1:]), t.expand(2), text)

        def in_turn(x, t, predict=predict, text=text):
            return torch.cat([predict(x, t, text[:1]), predict(x, t, text[1:])])

        for clip in ("clip", "image"):
            for name, ask in (("one batch", together), ("in turn", in_turn)):
                run = euler(ask, inputs[clip], inputs["times"], float(inputs["scale"]))
                yield f"{clip}, {form}, {name}", (run, lambda x: to_numpy({"x": x}))


def euler(ask: Callable, noise: torch.Tensor, times: torch.Tensor, scale: float):
    @torch.inference_mode()
    def run() -> torch.Tensor:
        x = noise
        for here, there in itertools.pairwise(times):
            conditional, unconditional = ask(x, 1000.0 * here[None]).chunk(2)
            guided = unconditional + scale * (conditional - unconditional)
            x = x + (there - here) * guided
        return x

    return run


def autoencode(folder: Path, inputs: dict) -> Iterator[tuple[str, Case]]:
    """Yields each form with the default layout of memory and with channels last."""
    for form in FORMS:
        dtype, autocast = FORMS[form]
        for layout in ("", ", channels last"):
            model = load(AutoencoderKLWan, folder / "wan/vae", dtype).eval()
            if layout:
                channels_last(model)

            @torch.inference_mode()
            def encode(model=model, dtype=dtype, autocast=autocast):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    return model.encode(inputs["video"].to(dtype)).latent_dist.mean

            @torch.inference_mode()
            def decode(model=model, dtype=dtype, autocast=autocast):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    return model.decode(inputs["z"].to(dtype), return_dict=False)[0]

            for name, run in (("encode", encode), ("decode", decode)):
                yield f"{name}, {form}{layout}", (run, lambda x: to_numpy({"out": x}))


def channels_last(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # pyright: ignore
        elif isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # pyright: ignore


def to_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: x.float().numpy() for name, x in tensors.items()}


def main(what: str, folder: Path) -> None:
    torch.manual_seed(0)
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: torch.from_numpy(x) for name, x in arrays.items()}
    kinds = {"train": train, "sample": sample, "vae": autoencode}
    cases = dict(kinds[what](folder, inputs))
    for dtype in ("float32", "bfloat16"):
        cases[f"matmul {dtype}"] = torch_matmul(torch, dtype)
    about = {
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "threads": torch.get_num_threads(),
    }
    serve(cases, about)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
