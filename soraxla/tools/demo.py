"""The demo, every stage: samples ▸ VAE ▸ prepare ▸ transformer ▸ videos ▸ report."""

import json
import resource
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import SAMPLES
from data_pipelines.dataset import Dataset
from data_pipelines.loader import segments
from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.assets import small_vae
from soraxla.checkpoints.load import load_vae
from soraxla.diffusion.noise_schedule import time_shift
from soraxla.evals.denoising import denoising_ratio
from soraxla.evals.retrieval import nearest
from soraxla.generation.pipeline import Pipeline, load
from soraxla.generation.request import Request, SamplingConfig
from soraxla.generation.vae_streaming import decode_clip, encode_clip, psnr
from soraxla.media.contact_sheet import SheetRow, contact_sheet
from soraxla.media.read import read_clip
from soraxla.media.write import write_video
from soraxla.models.dit.config import DiTConfig, dit_config
from soraxla.packing.bin_packing import fill
from soraxla.packing.pack import PackConfig
from soraxla.packing.schedule import schedule_window
from soraxla.parallel.mesh import one_device
from soraxla.tools.prepare import prepare_dataset
from soraxla.training.dit_experiment import dit_experiment
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.experiment import DiTTrainingConfig, VAETrainingConfig
from soraxla.training.loop import LoopConfig, train
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_experiment import vae_experiment
from soraxla.training.vae_step import VAEStepConfig

ENCODER = "hashed"
# Sizes that no sample has: (caption of sample, width, height, frames).
NEW_SIZES = (
    ("rabbit_stretches_wide.mp4", 208, 80, 25),
    ("rabbit_stretches_tall.mp4", 72, 136, 25),
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Sizes of the stages, whose seed is 0."""

    vae_steps: int
    dit: DiTConfig
    dit_steps: int
    sampler_steps: int
    warmup_steps: int = 20


FULL = DemoConfig(
    vae_steps=60,
    # Steps count for more than layers when ten samples are learnt by heart.
    dit=dit_config("xs", layers=2, heads=4, text_refiner_layers=0, remat="none"),
    dit_steps=900,
    sampler_steps=24,
)
SMOKE = DemoConfig(
    vae_steps=3, dit=dit_config("debug"), dit_steps=6, sampler_steps=2, warmup_steps=2
)


def demo(workdir: Path, config: DemoConfig) -> dict[str, Any]:
    """Runs every stage in `workdir` and returns the contents of `report.json`.

    Raises:
        UserError: `workdir` holds something else.
    """
    start = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    say("Fine-tuning the shipped VAE on the ten samples")
    fine_tune_vae(workdir / "vae", config)
    say("Encoding the samples")
    dataset = encode_samples(workdir)
    say("Training the transformer")
    cfg = dit_training(config)
    # A step has one row, so there is nothing to share among devices.
    experiment = dit_experiment(cfg, dataset, workdir / "dit", mesh=one_device())
    train(experiment, cfg.loop, workdir / "dit")
    say("Generating every caption at its own size, and two sizes never seen")
    pipeline = load(workdir / "dit")
    names, requests = demo_requests(dataset)
    sampling = SamplingConfig(steps=config.sampler_steps, cfg_scale=2.0)
    generated: dict[int, np.ndarray] = {}
    for place, video in pipeline.generate_each(requests, sampling):
        path = workdir / "videos" / names[place]
        path.parent.mkdir(exist_ok=True)
        write_video(path, video, requests[place].fps or pipeline.defaults.fps)
        say(f"  {path}")
        generated[place] = video
    report = measure(workdir, dataset, pipeline, cfg, generated)
    report = {
        "seconds": round(time.monotonic() - start, 1),
        "peak_rss_gib": round(peak_rss_gib(), 2),
        **report,
        "outputs": [str(workdir / "videos" / name) for name in names],
    }
    text = json.dumps(report, indent=2) + "\n"
    (workdir / "report.json").write_text(text, encoding="utf-8")
    return report


def fine_tune_vae(workdir: Path, config: DemoConfig) -> None:
    """Trains the shipped VAE further, on the samples."""
    start = load_vae(small_vae())
    cfg = VAETrainingConfig(
        step=VAEStepConfig(
            # On a CPU, gradients of fp32 convolutions are faster.
            model=replace(start.model, dtype="float32"),
            optim=OptimConfig(
                learning_rate=1e-4,
                warmup_steps=min(20, config.vae_steps - 1),
                decay_steps=config.vae_steps,
                ema_decay=0.95,
            ),
        ),
        windows=WindowConfig(
            shapes=(
                WindowShape(frames=1, height=48, width=48, batch=8),
                WindowShape(frames=17, height=32, width=32, batch=3),
            )
        ),
        loop=LoopConfig(steps=config.vae_steps),
    )
    experiment = vae_experiment(cfg, SAMPLES, start=start, mesh=one_device())
    train(experiment, cfg.loop, workdir)


def encode_samples(workdir: Path) -> Dataset:
    """Prepares the samples with the VAE that was just trained."""
    dataset = prepare_dataset(
        SAMPLES,
        workdir / "dataset",
        vae=workdir / "vae",
        text_encoder=ENCODER,
        conditions=False,
    )
    assert dataset is not None
    return dataset


def dit_training(config: DemoConfig) -> DiTTrainingConfig:
    """Returns the transformer's training: one row of 1,024 tokens a step."""
    return DiTTrainingConfig(
        step=DiTStepConfig(
            model=config.dit,
            optim=OptimConfig(
                learning_rate=2e-3,
                # Muon needs half of AdamW's steps.
                muon_learning_rate=16e-3,
                warmup_steps=config.warmup_steps,
                decay_steps=max(config.dit_steps, config.warmup_steps + 1),
                ema_decay=0.97,
            ),
        ),
        pack=PackConfig(row_length=1024, text_length=512, max_segments=16),
        batch_rows=1,
        loop=LoopConfig(steps=config.dit_steps, checkpoint_every=300),
    )


def demo_requests(dataset: Dataset) -> tuple[list[str], list[Request]]:
    """Returns requests by file name: captions at sample sizes, then new sizes."""
    names, requests = [], []
    captions = {}
    for row in dataset.index.to_pylist():
        stem, caption = Path(row["source"]).stem, row["caption"]
        captions[row["source"]] = caption
        names.append(stem + (".png" if row["frames"] == 1 else ".mp4"))
        requests.append(
            Request(
                prompt=caption,
                width=row["width"],
                height=row["height"],
                frames=row["frames"],
                fps=row["fps"] or 24.0,
            )
        )
    for source, width, height, frames in NEW_SIZES:
        names.append(f"{Path(source).stem}_{width}x{height}.mp4")
        requests.append(
            Request(prompt=captions[source], width=width, height=height, frames=frames)
        )
    return names, requests


def measure(
    workdir: Path,
    dataset: Dataset,
    pipeline: Pipeline,
    cfg: DiTTrainingConfig,
    generated: dict[int, np.ndarray],
) -> dict[str, Any]:
    """Returns the report's numbers, and the contact sheet."""
    vae, model = pipeline.vae, cfg.step.model
    index = dataset.index.to_pylist()
    real = [cropped(read_clip(SAMPLES / row["source"]), row) for row in index]
    back = []
    for clip in real:
        latents = encode_clip(vae.params, vae.model, clip)
        back.append(decode_clip(vae.params, vae.model, latents))
    hits = [nearest(generated[i], real) == i for i in range(len(real))]
    rows = [
        SheetRow(caption=row["caption"], clips=[real[i], back[i], generated[i]])
        for i, row in enumerate(index)
    ]
    for place in range(len(real), len(generated)):
        source, width, height, frames = NEW_SIZES[place - len(real)]
        caption = f"{Path(source).stem} at {width}x{height}, {frames} frames"
        rows.append(SheetRow(caption=caption, clips=[None, None, generated[place]]))
    sheet = contact_sheet(rows, titles=("real", "reconstructed", "generated"))
    sheet.save(workdir / "contact_sheet.png")
    scheduled = [
        row
        for window in range(8)
        for row in schedule_window(dataset.sizes, cfg.pack, seed=0, window=window)
    ]
    ratio = denoising_ratio(
        pipeline.dit.params,
        model,
        pipeline.process,
        segments(
            dataset, partial(time_shift, model.shift), model.rope_fps, model.controls
        ),
    )
    psnrs = [psnr(a, b) for a, b in zip(real, back, strict=True)]
    return {
        "vae_psnr_db": round(float(np.mean(psnrs)), 2),
        "dit_loss": round(ratio, 4),
        "packing_fill": round(fill(scheduled, cfg.pack), 4),
        "retrieval_top1": f"{sum(hits)} of {len(hits)}",
        "contact_sheet": str(workdir / "contact_sheet.png"),
    }


def cropped(clip: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    """Returns the part of a sample that was encoded, by its row of the index."""
    top, left, height, width = row["crop"]
    return clip[: row["frames"], top : top + height, left : left + width]


def peak_rss_gib() -> float:
    """Returns the most memory that this process has held."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def say(text: str) -> None:
    """Prints one line of progress, unbuffered."""
    print(text, flush=True)
