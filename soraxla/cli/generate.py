"""`soraxla generate`: videos and images from prompts."""

import argparse
from pathlib import Path


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
    parser.add_argument("--size", default="256x256", metavar="WxH", help="in pixels")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="1 is an image (default)")
    length.add_argument("--seconds", type=float)
    parser.add_argument("--fps", type=float, default=24.0)
    parser.add_argument("--steps", type=int, default=30, help="sampler steps")
    parser.add_argument("--solver", default="euler", help="euler or heun")
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", help="another encoder for .mp4 and .webm")
    parser.add_argument(
        "--out", required=True, help=".mp4, .webm, .gif, .webp, .png or .jpg"
    )


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from soraxla.pipeline import Request, SampleSettings, load
    from soraxla.video_io import check_writable, write_video

    # Everything a user can get wrong is found before the long work starts.
    width, height = _size(args.size)
    frames = _frames(args)
    prompts = _prompts(args)
    outs = _outs(args.out, len(prompts))
    for out in outs:
        check_writable(out, codec=args.codec)
    settings = SampleSettings(
        steps=args.steps,
        solver=args.solver,
        cfg_scale=args.cfg_scale,
        negative_prompt=args.negative_prompt,
        seed=args.seed,
    )
    requests = [
        Request(prompt=p, width=width, height=height, frames=frames, fps=args.fps)
        for p in prompts
    ]
    pipeline = load(args.checkpoint)
    videos = pipeline.generate_each(requests, settings)
    for place, video in tqdm(videos, total=len(requests), unit="video"):
        write_video(outs[place], video, args.fps, codec=args.codec)
        tqdm.write(str(outs[place]))


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts):
        raise ValueError(f"--size is {text!r}, expected WIDTHxHEIGHT such as 640x360")
    return int(parts[0]), int(parts[1])


def _frames(args: argparse.Namespace) -> int:
    if args.seconds is not None:
        if not 0 < args.seconds <= 3600:
            raise ValueError(f"--seconds is {args.seconds}, expected 0 to 3600")
        return max(1, round(args.seconds * args.fps))
    return 1 if args.frames is None else args.frames


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.prompts_file is None:
        return [args.prompt]
    try:
        text = args.prompts_file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{args.prompts_file}: is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{args.prompts_file}: holds no prompt; write one a line")
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
