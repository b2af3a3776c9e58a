"""`soraxla generate`: videos and images from prompts."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from soraxla.pipeline import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, help="training folder or exported folder"
    )
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="what to show")
    prompt.add_argument(
        "--prompts-file",
        type=Path,
        help="one prompt a line; --out is then a pattern such as video_{}.mp4",
    )
    parser.add_argument(
        "--image",
        type=Path,
        help="first frame, scaled to cover --size and cut at the centre; for models "
        "trained with given frames, such as Wan 2.2 TI2V 5B",
    )
    parser.add_argument("--size", default="256x256", metavar="WxH", help="in pixels")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="1 is an image (default)")
    length.add_argument("--seconds", type=float)
    parser.add_argument("--fps", type=float, default=24.0)
    parser.add_argument("--steps", type=int, default=30, help="sampler steps")
    parser.add_argument(
        "--solver", default="euler", help="euler, heun, wan-euler or unipc"
    )
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", help="another encoder for .mp4 and .webm")
    parser.add_argument(
        "--out", required=True, help=".mp4, .webm, .gif, .webp, .png or .jpg"
    )


def run(args: argparse.Namespace) -> None:
    import jax
    from tqdm import tqdm

    from soraxla.pipeline import SampleSettings, load
    from soraxla.sharding import sampling_mesh
    from soraxla.video_io import check_writable, write_video

    # Everything a user can get wrong is found before the long work starts.
    requests = _requests(args)
    outs = _outs(args.out, len(requests))
    for out in outs:
        check_writable(out, codec=args.codec)
    _rehearse(outs[0], requests[0], args.codec)
    settings = SampleSettings(
        steps=args.steps,
        solver=args.solver,
        cfg_scale=args.cfg_scale,
        negative_prompt=args.negative_prompt,
        seed=args.seed,
    )
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(args.checkpoint)
        videos = pipeline.generate_each(requests, settings)
        for place, video in tqdm(videos, total=len(requests), unit="video"):
            write_video(outs[place], video, args.fps, codec=args.codec)
            tqdm.write(str(outs[place]))


def _requests(args: argparse.Namespace) -> "list[Request]":
    from soraxla.pipeline import Request

    width, height = parse_size(args.size)
    frames = _frames(args)
    image = None if args.image is None else _picture(args.image)
    requests = []
    for where, prompt in _prompts(args):
        try:
            request = Request(
                prompt=prompt,
                width=width,
                height=height,
                frames=frames,
                fps=args.fps,
                image=image,
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        requests.append(request)
    return requests


def _rehearse(out: Path, request: "Request", codec: str | None) -> None:
    """Fails as writing `out` will: encoders refuse sizes, formats refuse rates."""
    import tempfile

    import numpy as np

    from soraxla.video_io import write_video

    black = np.zeros((request.height, request.width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / out.name
        try:
            write_video(
                trial, [black] * min(request.frames, 2), request.fps, codec=codec
            )
        except (ValueError, OSError) as error:
            message = str(error).replace(str(trial), str(out))
            raise ValueError(message) from None


def _picture(path: Path) -> "np.ndarray":
    from soraxla.video_io import probe, read_clip

    if not probe(path).is_image:
        raise ValueError(f"{path}: holds a film, expected a picture; save one frame")
    return read_clip(path)[0]


def parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts):
        raise ValueError(f"--size is {text!r}, expected WIDTHxHEIGHT such as 640x360")
    return int(parts[0]), int(parts[1])


def _frames(args: argparse.Namespace) -> int:
    if args.seconds is None:
        return 1 if args.frames is None else args.frames
    if not 0 < args.seconds <= 3600:
        raise ValueError(f"--seconds is {args.seconds}, expected 0 to 3600")
    if not math.isfinite(args.fps):
        raise ValueError(f"--fps is {args.fps}, expected a number such as 24")
    return max(1, round(args.seconds * args.fps))


def _prompts(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Where each prompt stands, for messages, and the prompt."""
    file = args.prompts_file
    if file is None:
        return [("--prompt", args.prompt)]
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    lines = enumerate(text.splitlines(), start=1)
    prompts = [(f"{file} line {n}", line.strip()) for n, line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{file}: holds no prompt; write one a line")
    return prompts


def _outs(pattern: str, count: int) -> list[Path]:
    if count == 1 and "{}" not in pattern:
        return [Path(pattern)]
    if "{}" not in pattern:
        raise ValueError(
            f"--out is {pattern!r} for {count} prompts, expected a name with {{}} for "
            "the number, such as video_{}.mp4"
        )
    return [Path(pattern.replace("{}", f"{i:03d}")) for i in range(count)]
