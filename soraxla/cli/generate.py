"""`soraxla generate`: videos and images from prompts, pictures and clips."""

import argparse
import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from soraxla.assets import DEFAULTS, WORLDS, GenerationDefaults
from soraxla.cli import media, sampling
from soraxla.core.errors import UserError

if TYPE_CHECKING:
    from soraxla.generation.pipeline import Pipeline
    from soraxla.generation.request import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        help="training folder or model folder (default: the shipped model of simulated "
        "worlds, trained on clips of 64x64)",
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
        "--out",
        default="soraxla.mp4",
        help=".mp4, .webm, .gif, .webp, .png or .jpg (default: %(default)s)",
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
    parser.set_defaults(condition_noise=None)
    parser.add_argument(
        "--takes",
        type=int,
        metavar="N",
        help="samples of each video; the one whose joins with input "
        "frames show least is "
        f"kept (default: 1; {WORLDS.takes} for videos with joins without --checkpoint)",
    )


def _add_length(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "size and length", "of the whole video, input frames included"
    )
    group.add_argument(
        "--size",
        metavar="WxH",
        help="in pixels (default: the input frames' size, or 256x256; 64x64 without "
        "--checkpoint)",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--frames",
        type=int,
        help="frames of the video, 1 for a picture (default: the task's, "
        "or 1; 33 without "
        "--checkpoint)",
    )
    length.add_argument(
        "--seconds", type=float, help="length of the video, in place of --frames"
    )
    group.add_argument(
        "--fps",
        type=float,
        help="frames a second (default: the input clip's, or 24; 16 "
        "without --checkpoint)",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="FRAMES",
        help="most frames to sample at once, from the overlap + 4 on; "
        "longer videos are "
        "sampled window by window (default: the model's limit; the overlap + 8 to "
        "extend a clip forward without --checkpoint)",
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

    from soraxla.generation.pipeline import load
    from soraxla.media.write import check_writable, write_video
    from soraxla.parallel.mesh import sampling_mesh

    # Mistakes of the user are found before the long work starts.
    defaults = _defaults(args)
    if args.condition_noise is None:
        args.condition_noise = defaults.condition_noise
    settings = sampling.settings_of(args)
    if args.takes is not None:
        settings = dataclasses.replace(settings, takes=args.takes)
    requests = _requests(args)
    outs = _outs(args.out, len(requests))
    for out in outs:
        check_writable(out, codec=args.codec)
        media.check_kept(args, out)
    _rehearse(outs[0], requests[0], args.codec)
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(args.checkpoint)
        if args.actions is not None:
            requests = [_acting(args.actions, r, pipeline) for r in requests]
        if args.takes is None and defaults.takes > 1 and pipeline.joins(requests[0]):
            settings = dataclasses.replace(settings, takes=defaults.takes)
        _note_windows(pipeline, requests[0])
        videos = pipeline.generate_each(requests, settings)
        for place, video in tqdm(videos, total=len(requests), unit="video"):
            write_video(outs[place], video, requests[place].fps, codec=args.codec)
            tqdm.write(str(outs[place]))


def _defaults(args: argparse.Namespace) -> GenerationDefaults:
    return DEFAULTS if args.checkpoint else WORLDS


def _requests(args: argparse.Namespace) -> "list[Request]":
    from soraxla.generation.request import Request

    prompts, defaults = _prompts(args), _defaults(args)
    task = media.task_of(args, defaults.bridge)
    size = args.canvas or args.size
    if size is None and not args.checkpoint and task.single_frames:
        # The shipped model knows the sizes of its worlds, not those of photographs.
        size = f"{defaults.width}x{defaults.height}"
    own = None if size else media.own_size(task)
    if own is None:
        option = "--canvas" if args.canvas else "--size"
        width, height = parse_size(
            size or f"{defaults.width}x{defaults.height}", option
        )
    else:
        task, width, height = own
    fps = (media.own_fps(args) or defaults.fps) if args.fps is None else args.fps
    frames = _frames(args, fps)
    frames = (task.default_frames() or defaults.frames) if frames is None else frames
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
    return requests


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
    for note in dict.fromkeys(notes):  # both directions may need the same note
        media.note(note)


def _rehearse(out: Path, request: "Request", codec: str | None) -> None:
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
            write_video(trial, frames, request.fps, codec=codec)
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


def _outs(pattern: str, count: int) -> list[Path]:
    if count == 1 and "{}" not in pattern:
        return [Path(pattern)]
    if "{}" not in pattern:
        raise UserError(
            f"--out is {pattern!r} for {count} prompts, expected a name with {{}} for "
            "the number, such as video_{}.mp4"
        )
    return [Path(pattern.replace("{}", f"{i:03d}")) for i in range(count)]
