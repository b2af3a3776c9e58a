"""`soraxla worldbench`: measures a model against simulated worlds."""

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from soraxla.cli import sampling
from soraxla.cli.following import say_generate
from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from soraxla.evals.worldbench.cases import Ask, Autoencode, Case, Generate
    from soraxla.generation.pipeline import Pipeline
    from soraxla.generation.request import Request, SamplingConfig

_ASKED = ("families", "clips", "size", "frames", "fps", "window", "overlap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="training folder or exported folder")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="new folder, for results.json, manifest.json and report.html",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="F",
        help="manifest.json of a run to repeat exactly, in place of all options but "
        "--checkpoint and --out",
    )
    group = parser.add_argument_group("questions")
    group.add_argument(
        "--families",
        nargs="+",
        metavar="NAME",
        help="permanence, physics, interaction, consistency, control, text, candle, "
        "glass, treadmill, bites, count (default: all)",
    )
    group.add_argument(
        "--clips",
        type=int,
        metavar="N",
        help="clips of each family (default: 24, and 100 for text)",
    )
    group.add_argument("--size", metavar="WxH", help="in pixels (default: 64x64)")
    group.add_argument("--frames", type=int, help="of a clip, 1 + 4k (default: 33)")
    group.add_argument("--fps", type=float, help="default: 16")
    group.add_argument(
        "--window",
        type=int,
        metavar="FRAMES",
        help="most frames to sample at once where a clip's beginning is the condition, "
        "overlap included (default: the model's limit)",
    )
    group.add_argument(
        "--overlap",
        type=int,
        metavar="FRAMES",
        help="most frames that condition a window (default: all of the beginning)",
    )
    sampling.add_arguments(parser)


class Windows(NamedTuple):
    """Window and overlap of clips that extend others; see `Request`."""

    window: int | None = None
    overlap: int | None = None  # at most; None takes all condition frames


class _Plan(NamedTuple):
    checkpoint: str
    settings: "SamplingConfig"
    windows: "Windows"
    draw: "Callable[[], dict[str, list[Case]]]"
    sha256: dict[str, str] | None  # what the checkpoint must have, if that is known


def run(args: argparse.Namespace) -> None:
    import jax
    from tqdm import tqdm

    from soraxla.core.config import to_dict
    from soraxla.evals.worldbench import record, report, runner
    from soraxla.evals.worldbench.cases import supported
    from soraxla.generation.pipeline import load
    from soraxla.parallel.mesh import sampling_mesh

    # Mistakes of the user are found before the long work starts.
    record.check_new(args.out)
    plan = _rerun(args) if args.manifest else _first_run(args)
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(plan.checkpoint)
        sha256 = _hashes(pipeline)
        if plan.sha256 not in (None, sha256):
            raise UserError(
                f"{plan.checkpoint}: holds other weights or settings than "
                f"{args.manifest} was made with; give theirs as --checkpoint"
            )
        cases, outcomes = plan.draw(), {}
        for case in itertools.chain(*cases.values()):
            # Refuses windows that do not fit.
            ask = supported(case.ask, pipeline.dit.model.controls)
            pipeline.context(request_of(ask, plan.windows))
        with tqdm(total=2 * sum(map(len, cases.values())), unit="clip") as bar:
            for name, each in cases.items():
                bar.set_description(name)
                outcomes[name] = runner.run_family(
                    runner.FAMILIES[name],
                    each,
                    pipeline.dit.model.controls,
                    _generator(pipeline, plan),
                    _autoencoder(pipeline, plan),
                    bar.update,
                )
    manifest = record.manifest(
        cases,
        sampler=to_dict(plan.settings),
        windows=plan.windows._asdict(),
        checkpoint=plan.checkpoint,
        sha256=sha256,
    )
    title = f"WorldBench of {Path(plan.checkpoint).name}"
    files = {
        "results.json": json.dumps(record.results(outcomes), indent=2) + "\n",
        "manifest.json": json.dumps(manifest, indent=2) + "\n",
        "report.html": report.page(title, outcomes),
    }
    record.write_record(args.out, files)
    print(runner.table(outcomes))
    print(args.out / "report.html")
    say_generate(plan.checkpoint)


def _hashes(pipeline: "Pipeline") -> dict[str, str]:
    """Returns the hashes of all that a measurement depends on beside the sampler."""
    from soraxla.core.config import to_dict
    from soraxla.evals.worldbench import record
    from soraxla.files.hashing import sha256_of_tree

    models = {"transformer": pipeline.dit, "vae": pipeline.vae}
    settings = [
        *(to_dict(model.model) for model in models.values()),
        to_dict(pipeline.process),
        pipeline.dit.config.get("max_latent_frames"),
        # Only the kind: the encoder's folder may be elsewhere.
        pipeline.text_encoder.name.partition(":")[0],
    ]
    found = {name: sha256_of_tree(model.params) for name, model in models.items()}
    return found | {"settings": record.sha256_of_json(settings)}


def _first_run(args: argparse.Namespace) -> _Plan:
    from data_pipelines.worlds.sizes import Size
    from soraxla.cli.generate import parse_size
    from soraxla.core.config import nearest
    from soraxla.evals.worldbench.cases import SIZE
    from soraxla.evals.worldbench.runner import FAMILIES, draw_cases

    if args.checkpoint is None:
        raise UserError("no checkpoint to measure: name it with --checkpoint")
    width, height = parse_size(args.size) if args.size else SIZE[:2]
    size = Size(
        width=width,
        height=height,
        frames=SIZE.frames if args.frames is None else args.frames,
        fps=SIZE.fps if args.fps is None else args.fps,
    )
    names = args.families or list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise UserError(f"unknown family {name!r}{nearest(name, FAMILIES)}")

    def draw() -> "dict[str, list[Case]]":
        return {
            name: draw_cases(
                FAMILIES[name],
                FAMILIES[name].clips if args.clips is None else args.clips,
                size,
            )
            for name in names
        }

    windows = Windows(args.window, args.overlap)
    return _Plan(args.checkpoint, sampling.settings_of(args), windows, draw, None)


def _rerun(args: argparse.Namespace) -> _Plan:
    from soraxla.core.config import build
    from soraxla.evals.worldbench.record import cases_of, read_manifest
    from soraxla.generation.request import SamplingConfig

    other = [getattr(args, name) for name in _ASKED]
    if any(value is not None for value in other) or (
        sampling.settings_of(args) != SamplingConfig()
    ):
        raise UserError(
            f"{args.manifest} sets the clips and the sampling: give only --checkpoint "
            "and --out beside it"
        )
    found = read_manifest(args.manifest)
    return _Plan(
        args.checkpoint or found["checkpoint"],
        build(SamplingConfig, found["sampler"], f"{args.manifest}: sampler."),
        Windows(**found["windows"]),
        lambda: cases_of(args.manifest, found),
        found["sha256"],
    )


def _generator(pipeline: "Pipeline", plan: _Plan) -> "Generate":
    def generate(asks: "Sequence[Ask]") -> "Iterator[tuple[int, np.ndarray]]":
        requests = [request_of(ask, plan.windows) for ask in asks]
        return pipeline.generate_each(requests, plan.settings)

    return generate


def _autoencoder(pipeline: "Pipeline", plan: _Plan) -> "Autoencode":
    import numpy as np

    def autoencode(ask: "Ask", video: "np.ndarray") -> "np.ndarray":
        context = pipeline.context(request_of(ask, plan.windows))
        return np.asarray(context.decode(context.encode(video), len(video)))

    return autoencode


def request_of(ask: "Ask", windows: Windows) -> "Request":
    """Returns the request that conditions the model on the clip's beginning."""
    from soraxla.generation.request import Request
    from soraxla.generation.task_inputs import Animate, Extend

    condition, size = ask.condition, ask.size
    overlap = max(len(condition), 5)
    task, window = Animate(first=condition if len(condition) else None), None
    if len(condition) > 1:
        task, window = Extend(video=condition), windows.window
    return Request(
        prompt=ask.prompt,
        width=size.width,
        height=size.height,
        frames=size.frames,
        fps=size.fps,
        task=task,
        window=window,
        overlap=overlap if windows.overlap is None else min(overlap, windows.overlap),
        actions=ask.actions,
        camera=ask.camera,
    )
