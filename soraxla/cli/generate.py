"""`soraxla generate`: videos and images from prompts, pictures and clips."""

import argparse
import contextlib
import dataclasses
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soraxla.cli import media, sampling
from soraxla.core.errors import UserError
from soraxla.core.paths import Place, place, place_or_name

if TYPE_CHECKING:
    from soraxla.generation.defaults import ModelDefaults
    from soraxla.generation.pipeline import Pipeline
    from soraxla.generation.progress import Progress
    from soraxla.generation.request import Request
    from soraxla.generation.task_inputs import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=place_or_name,
        help="training folder or model folder, local or gs://… (default: the shipped "
        "model of simulated worlds, trained on clips of 64x64)",
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="text that describes the video")
    prompt.add_argument(
        "--prompts-file",
        type=Path,
        help="text file with one prompt a line; --out is then a pattern such as "
        "video_{}.mp4",
    )
    parser.add_argument(
        "--expand",
        action="store_true",
        help="make a prompt longer, in the way of the training captions; --seed "
        "chooses how",
    )
    parser.add_argument(
        "--out",
        default="soraxla.mp4",
        type=place_or_name,
        help=".mp4, .webm, .gif, .webp, .png or .jpg, local or gs://… (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--codec", help="encoder for .mp4 and .webm (default: the format's usual one)"
    )
    _add_length(parser)
    media.add_arguments(parser)
    parser.add_argument(
        "--actions",
        nargs="+",
        metavar="ACTION",
        help="actions of a player, from the first frame or the end of the extended "
        "clip on, for models with such actions: forward*8 left+jump*4 dig",
    )
    sampling.add_arguments(parser)
    parser.add_argument(
        "--takes",
        type=int,
        metavar="N",
        help="samples of each video; the one whose joins with input "
        "frames show least is kept (default: 1; for videos with joins the model's)",
    )


def _add_length(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "size and length", "of the whole video, input frames included"
    )
    group.add_argument(
        "--size",
        metavar="WxH",
        help="in pixels (default: the input clip's, or the model's; of an input "
        "picture, the model's if its folder states one)",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--frames",
        type=int,
        help="frames of the video, 1 for a picture (default: the task's, or the "
        "model's)",
    )
    length.add_argument(
        "--seconds", type=float, help="length of the video, in place of --frames"
    )
    group.add_argument(
        "--fps",
        type=float,
        help="frames a second (default: the input clip's, or the model's)",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="FRAMES",
        help="most frames to sample at once, from the overlap + 4 on; "
        "longer videos are sampled window by window (default: the model's limit)",
    )
    group.add_argument(
        "--overlap",
        type=int,
        default=9,
        metavar="FRAMES",
        help="frames of a clip or a window that condition the next one (default: "
        "%(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    import jax
    from tqdm import tqdm

    from soraxla.generation.defaults import model_defaults, read_usage, unlike_training
    from soraxla.generation.pipeline import load
    from soraxla.media.write import check_writable, write_video
    from soraxla.parallel.mesh import sampling_mesh

    # Mistakes of the user are found before the long work starts.
    defaults = model_defaults(read_usage(args.checkpoint))
    settings = sampling.settings_of(args, defaults.sampling)
    if args.takes is not None:
        settings = dataclasses.replace(settings, takes=args.takes)
    requests, taken = _requests(args, defaults)
    outs = _outs(args.out, len(requests))
    for out in outs:
        check_writable(out, codec=args.codec)
        media.check_kept(args, out)
    _rehearse(outs[0], requests[0], requests[0].fps or defaults.fps, args.codec)
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(args.checkpoint)
        if args.actions is not None:
            requests = [_acting(args.actions, r, pipeline) for r in requests]
        if args.expand:
            requests = [_expanded(r, pipeline, args.seed) for r in requests]
        if args.takes is None and defaults.takes > 1 and pipeline.joins(requests[0]):
            settings = dataclasses.replace(settings, takes=defaults.takes)
        _note_windows(pipeline, requests[0])
        for text in unlike_training(pipeline.usage, requests):
            media.note(text)
        bar = _Bar()
        videos = pipeline.generate_lazily(requests, settings, bar.show)
        _note_defaults(args, defaults, taken)
        with contextlib.closing(bar):
            for place, video in videos:
                fps = requests[place].fps or defaults.fps
                about = requests[place].about()
                write_video(outs[place], video, fps, codec=args.codec, about=about)
                tqdm.write(str(outs[place]))
    print(
        f"next: the same command with --seed {args.seed + 1}, for other samples",
        file=sys.stderr,
    )


class _Bar:
    """A bar of the sampler's steps over all requests; nothing until there are some."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, progress: "Progress") -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=progress.total, unit="step", desc=progress.phase)
        self._bar.total = progress.total
        self._bar.set_description(progress.phase, refresh=False)
        self._bar.update(progress.done - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _note_defaults(
    args: argparse.Namespace, defaults: "ModelDefaults", taken: list[str]
) -> None:
    """Notes the values that the model's defaults have set, by their source."""
    from soraxla.generation.defaults import OTHERWISE

    values: dict[str, Any] = {name: getattr(defaults, name) for name in taken}
    for name, value in defaults.sampling.items():
        if getattr(args, name) is None:
            values[name] = value
    by_origin: dict[str, list[str]] = {}
    for name, value in values.items():
        origin = defaults.origins.get(name, OTHERWISE)
        option = name.replace("_", "-")
        by_origin.setdefault(origin, []).append(f"{option} {value}")
    for origin, words in by_origin.items():
        media.note(f"{', '.join(words)}: from {origin}")


def _size(
    args: argparse.Namespace, task: "Task", defaults: "ModelDefaults"
) -> "tuple[Task, int, int, bool]":
    """Returns the task, width, height, and whether they are the model's default."""
    if (asked := args.canvas or args.size) is not None:
        option = "--canvas" if args.canvas else "--size"
        return task, *parse_size(asked, option), False
    # A model of a stated size does not know those of photographs.
    if not (defaults.sizes_pictures and task.single_frames):
        own = media.own_size(task)
        if own is not None:
            return *own, False
    return task, defaults.width, defaults.height, True


def _requests(
    args: argparse.Namespace, defaults: "ModelDefaults"
) -> "tuple[list[Request], list[str]]":
    """Returns the requests, and the names of defaults that they have."""
    from soraxla.generation.request import Request
    from soraxla.media.write import PICTURES

    prompts, taken = _prompts(args), []
    task = media.task_of(args, defaults.bridge)
    if not (args.prompt or args.prompts_file or task.videos()):
        raise UserError(
            "--prompt is missing: describe the video, such as --prompt 'a red ball "
            "rolls to the left', or name a file of prompts with --prompts-file"
        )
    task, width, height, default = _size(args, task, defaults)
    if default:
        taken += ["width", "height"]
    fps = media.own_fps(args) if args.fps is None else args.fps
    if fps is None:
        fps = defaults.fps
        taken.append("fps")
    frames = _frames(args, fps)
    if frames is None and (frames := task.default_frames()) is None:
        if place(args.out).suffix.lower() in PICTURES:
            frames = 1
        else:
            frames = defaults.frames
            taken.append("frames")
    window = args.window
    if (
        window is None
        and task.names == ("extend_forward",)
        and defaults.onward is not None
    ):
        window = args.overlap + defaults.onward
    requests, seen = [], Counter()
    for where, prompt in prompts:
        try:
            request = Request(
                prompt=prompt,
                width=width,
                height=height,
                frames=frames,
                fps=fps,
                task=task,
                fit=args.fit,
                window=window,
                overlap=args.overlap,
                noise=seen[prompt],  # as of this prompt without the file
            )
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from None
        requests.append(request)
        seen[prompt] += 1
    media.note_fit(requests[0])
    return requests, taken


def _expanded(request: "Request", pipeline: "Pipeline", seed: int) -> "Request":
    """Returns the request with an expanded prompt, and notes what expanded it."""
    if not request.prompt:
        return request
    found = pipeline.expand(request.prompt, seed)
    if found.text == request.prompt:
        media.note(f"the prompt {found.prompt!r} stays as it is; {found.by}")
        return request
    media.note(f"the prompt {found.prompt!r} becomes {found.text!r}, by {found.by}")
    return dataclasses.replace(request, prompt=found.text, short=found.prompt)


def _acting(steps: list[str], request: "Request", pipeline: "Pipeline") -> "Request":
    """Returns the request with actions that lead to its generated frames."""
    import numpy as np

    from soraxla.packing.controls import parse_actions

    names = pipeline.dit.model.controls.actions
    if not names:
        raise UserError("--actions: this model has no actions; leave it out")
    rows = parse_actions(steps, names)
    first, new = request.task.steered(request)
    if len(rows) > new:
        raise UserError(
            f"--actions last {len(rows)} frames, but {new} are generated: ask for more "
            "frames, or give fewer actions"
        )
    actions = np.zeros((request.frames, len(names)), np.float32)
    actions[first : first + len(rows)] = rows
    return dataclasses.replace(request, actions=actions)


def _note_windows(pipeline: "Pipeline", request: "Request") -> None:
    from soraxla.generation.tasks import spans

    context, notes = pipeline.context(request), []
    for span in spans(context):
        if len(context.window_ends(span)) > 1:
            assert context.window is not None
            beside = span.before + span.after
            with_overlap = f" and the {beside} beside them" if beside else ""
            notes.append(
                f"{span.new} frames{with_overlap} are more than the "
                f"{context.frames(context.window)} that are sampled at once: they are "
                "sampled window by window (--window)"
            )
            if pipeline.usage.trained_tasks is None:
                notes.append(
                    "the model's config.json has no trained_tasks: windows are "
                    "sampled as if it was trained to continue a clip"
                )
    for note in dict.fromkeys(notes):  # both directions may need the same note
        media.note(note)


def _rehearse(out: Place, request: "Request", fps: float, codec: str | None) -> None:
    """Raises the error that writing `out` would: encoders refuse sizes and rates."""
    import tempfile

    import numpy as np

    from soraxla.media.write import write_video

    black = np.zeros((request.height, request.width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / out.name
        try:
            # libx265 fails at random on one or two frames.
            frames = [black] * min(request.frames, 5)
            write_video(trial, frames, fps, codec=codec)
        except (UserError, OSError) as error:
            message = str(error).replace(str(trial), str(out))
            raise UserError(message) from None


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts):
        raise UserError(f"{option} is {text!r}, expected WIDTHxHEIGHT such as 640x360")
    return int(parts[0]), int(parts[1])


def _frames(args: argparse.Namespace, fps: float) -> int | None:
    if args.seconds is None:
        return args.frames
    if not 0 < args.seconds <= 3600:
        raise UserError(f"--seconds is {args.seconds}, expected 0 to 3600")
    if not math.isfinite(fps):
        raise UserError(f"--fps is {fps}, expected a number such as 24")
    return max(1, round(args.seconds * fps))


def _prompts(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns (place in the file, for messages, and prompt) of each prompt."""
    file = args.prompts_file
    if file is None:
        return [("", args.prompt or "")]
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    lines = enumerate(text.split("\n"), start=1)
    prompts = [(f"{file} line {n}", line.strip()) for n, line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{file}: holds no prompt; write one a line")
    return prompts


def _outs(out: Place | str, count: int) -> list[Place]:
    pattern = str(out)
    if count == 1 and "{}" not in pattern:
        return [place(pattern)]
    if "{}" not in pattern:
        raise UserError(
            f"--out is {pattern!r} for {count} prompts, expected a name with {{}} for "
            "the number, such as video_{}.mp4"
        )
    return [place(pattern.replace("{}", f"{i:03d}")) for i in range(count)]
