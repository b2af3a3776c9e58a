"""Makes `solvers.npz`: the steps of diffusers' schedulers with a toy network.

    python tests/golden/make_solvers.py

It needs torch and diffusers; the committed file was made with torch 2.13.0 and
diffusers 0.42.1. Arrays are named solver/steps/shift/kind. The kinds are `sigmas`
(steps + 1), `times` (steps, the network's, 0 to 1000) and `samples` (steps + 1, tokens,
channels): the noise, then the result of each step.
"""

from pathlib import Path
from typing import Any

import numpy as np

STEPS, SHIFTS = (1, 2, 3, 10, 50), (1.0, 3.0, 5.0)
TOKENS, CHANNELS = 8, 3
FILE = Path(__file__).with_name("solvers.npz")


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(TOKENS, CHANNELS)).astype(np.float32)


def toy(x: Any, t: Any, xp: Any = np) -> Any:
    """Smooth, bent in x and t; t in [0, 1] broadcasts against x."""
    return xp.sin(1.5 * x + 2.0 * t) + 0.4 * x * t - 0.3 * xp.cos(5.0 * t)


def main() -> None:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    def unipc(shift: float):
        """The scheduler_config.json of Wan 2.1, but for the shift."""
        return UniPCMultistepScheduler(
            num_train_timesteps=1000,
            beta_start=0.0001,
            beta_end=0.02,
            beta_schedule="linear",
            solver_order=2,
            prediction_type="flow_prediction",
            thresholding=False,
            predict_x0=True,
            solver_type="bh2",
            lower_order_final=True,
            disable_corrector=[],
            timestep_spacing="linspace",
            final_sigmas_type="zero",
            use_flow_sigmas=True,
            flow_shift=shift,
        )

    def euler(shift: float):
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)

    arrays = {}
    for name, make in (("unipc", unipc), ("wan-euler", euler)):
        for steps in STEPS:
            for shift in SHIFTS:
                scheduler = make(shift)
                scheduler.set_timesteps(steps)
                samples = [torch.from_numpy(noise())[None]]
                for t in scheduler.timesteps:
                    x = samples[-1]
                    v = toy(x.numpy().astype(np.float64), float(t) / 1000.0)
                    v = torch.from_numpy(v.astype(np.float32))
                    samples.append(scheduler.step(v, t, x, return_dict=False)[0])
                key = f"{name}/{steps}/{shift:g}/"
                arrays[key + "sigmas"] = scheduler.sigmas.numpy()
                arrays[key + "times"] = scheduler.timesteps.numpy().astype(np.float32)
                arrays[key + "samples"] = torch.cat(samples).numpy()
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
