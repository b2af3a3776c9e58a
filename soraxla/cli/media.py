"""The input frames of `soraxla generate`: options to a task, a size and a rate."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from soraxla.core.errors import UserError
from soraxla.core.paths import Place, is_remote

if TYPE_CHECKING:
    import numpy as np

    from soraxla.generation.request import Request
    from soraxla.generation.task_inputs import Task
    from soraxla.media.lazy_video import LazyVideo

# Options that need another one.
_BESIDE = {
    "direction": ("extend",),
    "strength": ("edit", "connect", "loop"),
    "mask": ("inpaint",),
    "canvas": ("inpaint",),
    "invert": ("mask",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "input frames", "of one task at a time; the prompt is then optional"
    )
    group.add_argument(
        "--image", type=Path, metavar="P", help="picture: the first frame"
    )
    group.add_argument(
        "--last-image", type=Path, metavar="P", help="picture: the last frame"
    )
    one = group.add_mutually_exclusive_group()
    one.add_argument("--extend", type=Path, metavar="V", help="clip to make longer")
    one.add_argument(
        "--connect",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="two clips to connect by a transition",
    )
    one.add_argument(
        "--loop",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="V",
        help="clip to lead back to its beginning; without V, the clip is "
        "generated from the prompt",
    )
    one.add_argument("--edit", type=Path, metavar="V", help="clip to change by SDEdit")
    one.add_argument(
        "--inpaint",
        type=Path,
        metavar="V",
        help="clip to generate again inside --mask, or to continue on a larger "
        "--canvas",
    )
    _add_options(group)


def _add_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options that tasks share."""
    group.add_argument(
        "--direction", help="forward (default), backward or both, for --extend"
    )
    group.add_argument(
        "--strength",
        type=float,
        help="where sampling starts, for --edit, --connect and --loop: "
        "from 0, the clip unchanged or a cross-fade, to 1, noise (default: 0.6 for "
        "--edit; for the others the model's, or 1)",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="P",
        help="picture that is white where --inpaint generates again",
    )
    group.add_argument(
        "--invert",
        action="store_true",
        default=None,
        help="generate where the mask is black",
    )
    group.add_argument(
        "--canvas", metavar="WxH", help="size of the canvas, for --inpaint"
    )
    group.add_argument(
        "--fit",
        default="cover",
        help="how input frames of another size are brought to --size: cover (scale and "
        "cut at the centre), crop (cut) or pad (scale, on black); default: %(default)s",
    )


def task_of(args: argparse.Namespace, bridge: float) -> "Task":
    """Returns the task of the options, with its files read.

    Connections and loops start at the strength `bridge` unless the options name one.

    Raises:
        UserError, OSError: options that do not go together, a file that cannot be
            read, a mask of another size than its clip.
    """
    from soraxla.generation.task_inputs import (
        Animate,
        Connect,
        Edit,
        Extend,
        Inpaint,
        Loop,
        Outpaint,
    )

    _check_together(args)
    if args.extend is not None:
        return Extend(
            video=_clip(args.extend), direction=args.direction or Extend.direction
        )
    if args.strength is not None:
        bridge = args.strength
    if args.connect is not None:
        before, after = map(_clip, args.connect)
        return Connect(before=before, after=after, strength=bridge)
    if args.loop is not None:
        video = None if args.loop == Path() else _clip(args.loop)
        return Loop(video=video, strength=bridge)
    if args.edit is not None:
        strength = Edit.strength if args.strength is None else args.strength
        return Edit(video=_clip(args.edit), strength=strength)
    if args.inpaint is not None and args.canvas is not None:
        return Outpaint(video=_clip(args.inpaint))
    if args.inpaint is not None:
        video, mask = _clip(args.inpaint), _picture(args.mask)[0].mean(axis=-1) >= 127.5
        if args.invert:
            mask = ~mask
        try:
            return Inpaint(video=video, mask=mask)
        except UserError as error:
            raise UserError(f"{args.mask}: {error}") from None
    pictures = (args.image, args.last_image)
    first, last = (None if path is None else _picture(path) for path in pictures)
    return Animate(first=first, last=last)


def check_kept(args: argparse.Namespace, out: Place) -> None:
    """Raises UserError if `out` is an input file."""
    if is_remote(out):  # and inputs are local
        return
    for path in (*_films(args), args.image, args.last_image, args.mask):
        if path is not None and out.is_file() and out.samefile(path):
            raise UserError(f"{out}: is an input file; write to another file (--out)")


def own_size(task: "Task") -> "tuple[Task, int, int] | None":
    """Returns the task at its input frames' size, and that width and height.

    The size is rounded down to patches, with a note, and inputs of one size are cut
    alike. None without input frames.
    """
    from soraxla.generation.request import MIN_SIDE

    inputs = task.videos()
    if not inputs:
        return None
    rows, columns = next(iter(inputs.values())).shape[1:3]
    height, width = (side // MIN_SIDE * MIN_SIDE for side in (rows, columns))
    if (height, width) == (rows, columns) or not (height and width):
        return task, columns, rows
    note(
        f"{columns}x{rows} is cut to {width}x{height}, whole patches; --size asks for "
        "another"
    )
    return task.cropped(width, height, (rows, columns)), width, height


def note_fit(request: "Request") -> None:
    """Notes how input frames of another size are brought to the request's."""
    if request.task.keeps_size:
        return
    for name, video in request.task.videos().items():
        rows, columns = video.shape[1:3]
        if (rows, columns) != (request.height, request.width):
            note(
                f"{name}: {columns}x{rows} is brought to {request.width}x"
                f"{request.height} by --fit {request.fit}"
            )


def own_fps(args: argparse.Namespace) -> float | None:
    """Returns the frame rate of the input clip, of two the first's; None without one.

    A note names a second clip's rate if it differs.
    """
    from soraxla.media.read import probe

    films = {path: probe(path) for path in _films(args)}
    rates = {path: film.fps for path, film in films.items() if not film.is_image}
    first = next(iter(rates.values()), None)
    for path, fps in rates.items():
        if f"{fps:g}" != f"{first:g}":
            note(f"{path}: its {fps:g} frames a second are played at {first:g}")
    return first


def _films(args: argparse.Namespace) -> list[Path]:
    paths = [args.extend, args.edit, args.inpaint, *(args.connect or [])]
    paths.append(None if args.loop == Path() else args.loop)
    return [path for path in paths if path is not None]


def note(text: str) -> None:
    """Prints a line to stderr about a choice that the user did not make."""
    print(f"soraxla generate: {text}", file=sys.stderr)


def _check_together(args: argparse.Namespace) -> None:
    tasks = ("extend", "connect", "loop", "edit", "inpaint")
    task = next((name for name in tasks if getattr(args, name) is not None), None)
    for name in ("image", "last_image"):
        if task is not None and getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} does not go with --{task}: give one of them")
    for name, others in _BESIDE.items():
        if getattr(args, name) is None or any(
            getattr(args, other) is not None for other in others
        ):
            continue
        either, it = (
            " or ".join(f"--{x}" for x in others),
            "one" if others[1:] else "it",
        )
        raise UserError(f"--{name} means nothing without {either}: add {it}")
    if args.inpaint is not None and (args.mask is None) == (args.canvas is None):
        raise UserError(
            "--inpaint takes --mask, the hole to generate again, or --canvas, the "
            "larger size: give one of them"
        )
    if args.canvas is not None and args.size is not None:
        raise UserError("--canvas sets the size: leave --size out")


def _clip(path: Path) -> "LazyVideo":
    from soraxla.generation.request import MAX_FRAMES
    from soraxla.media.read import lazy_clip

    return lazy_clip(path, MAX_FRAMES)


def _picture(path: Path) -> "np.ndarray":
    """Returns the one frame of a picture."""
    from soraxla.media.read import probe, read_clip

    if not probe(path).is_image:
        raise UserError(f"{path}: holds a clip, expected a picture; save one frame")
    return read_clip(path)
