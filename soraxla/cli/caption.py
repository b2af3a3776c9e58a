"""`soraxla caption`: trains a captioner, captions clips, and scores captions."""

import argparse
from pathlib import Path
from typing import Any

from soraxla.cli import group
from soraxla.cli.following import say_next
from soraxla.core.errors import UserError

URLS = ("endpoint",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    _add_train(parts.add_parser("train", help="train a captioner on captioned clips"))
    _add_apply(parts.add_parser("apply", help="write captions into clips.parquet"))
    _add_score(parts.add_parser("score", help="compare captions with simulated worlds"))


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument(
        "--source",
        help="captioned media: clips.parquet with original captions, or any other "
        "source of soraxla prepare; needed until --workdir has their frames",
    )
    train.add_argument(
        "--data-dir", type=Path, help="of a TFDS dataset, or of the films of clips"
    )
    train.add_argument(
        "--config",
        default="captioner:worlds",
        metavar="NAME[:ARGUMENT]",
        help="preset or Python file (default: %(default)s)",
    )
    train.add_argument(
        "--workdir",
        type=Path,
        required=True,
        help="training folder; an existing one is continued",
    )
    train.add_argument(
        "--init",
        type=Path,
        metavar="DIR",
        help="fine-tune this captioner, or see by this CLIP or DINOv2, a folder from "
        "the Hugging Face hub",
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting (repeatable); docs/configuration.md lists all",
    )
    group.add_arguments(train)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--beams",
        type=int,
        default=4,
        help="texts that the beam search keeps (default: %(default)s)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw each token from the likeliest ones, of this probability together, "
        "in place of beam search",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of --top-p (default: %(default)s)"
    )


def _add_apply(apply: argparse.ArgumentParser) -> None:
    apply.add_argument(
        "--clips", type=Path, required=True, help="folder of `soraxla curate`"
    )
    apply.add_argument(
        "--data-dir", type=Path, help="folder of the films, if they have been moved"
    )
    by = apply.add_mutually_exclusive_group(required=True)
    by.add_argument("--checkpoint", type=Path, help="captioner: its training or model")
    by.add_argument(
        "--endpoint",
        metavar="URL",
        help="OpenAI-compatible API of a vision model, such as "
        "http://localhost:8000/v1; OPENAI_API_KEY has the key, if it needs one",
    )
    _add_writing(apply)
    apply.add_argument(
        "--most", type=int, metavar="N", help="new clips in this run (default: all)"
    )
    apply.add_argument(
        "--match",
        type=Path,
        metavar="FOLDER",
        help="local CLIP that scores how well captions match their clips",
    )
    apply.add_argument(
        "--least-match",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="of --match, 0 to 100: captions below it are not used, as in BLIP "
        "(default: %(default)s)",
    )
    _add_endpoint(apply.add_argument_group("of --endpoint"))


def _add_endpoint(options: Any) -> None:
    options.add_argument("--model", help="the model's name there")
    options.add_argument("--prompt", help="the question in place of soraxla's own")
    options.add_argument(
        "--frames",
        type=int,
        default=8,
        help="frames of a clip that are sent (default: %(default)s)",
    )
    options.add_argument(
        "--side",
        type=int,
        default=512,
        help="pixels of their longer side, at most (default: %(default)s)",
    )
    options.add_argument(
        "--at-once",
        type=int,
        default=4,
        metavar="N",
        help="requests that wait together (default: %(default)s)",
    )
    options.add_argument(
        "--per-minute", type=float, metavar="N", help="most requests (default: any)"
    )
    options.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds for an answer (default: %(default)s)",
    )
    options.add_argument(
        "--prices",
        type=float,
        nargs=2,
        default=(0.0, 0.0),
        metavar=("IN", "OUT"),
        help="US dollars for a million tokens of requests and answers",
    )
    options.add_argument(
        "--most-cost", type=float, metavar="DOLLARS", help="stop at these costs"
    )


def _add_score(score: argparse.ArgumentParser) -> None:
    score.add_argument("--checkpoint", type=Path, required=True, help="captioner")
    score.add_argument(
        "--world",
        default="occlusion",
        help="occlusion, physics, marks, voxel or effects (default: %(default)s)",
    )
    score.add_argument(
        "--clips",
        type=int,
        default=200,
        help="clips that no dataset has (default: %(default)s)",
    )
    _add_writing(score)
    score.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON of scores and captions"
    )


def run(args: argparse.Namespace) -> None:
    if args.part == "train":
        _train(args)
    elif args.part == "apply":
        _apply(args)
    else:
        _score(args)


def _train(args: argparse.Namespace) -> None:
    from soraxla.cli.train import configured, finish

    config = configured(args.config, args.set)
    if config["kind"] != "captioner":
        raise UserError(f"--config {args.config}: trains a {config['kind']}")
    group.join_group(args)
    from soraxla.tools.captioned import views_folder
    from soraxla.training.run import run_training

    views = views_folder(config, args.workdir, args.source, args.data_dir, args.init)
    finish(
        run_training(
            config,
            data=views,
            workdir=args.workdir,
            init=args.init,
            interrupts=True,
        )
    )


def _apply(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from tqdm import tqdm

    from soraxla.tools import captions

    job = _endpoint_job(args) if args.endpoint else _model_job(args)
    if args.least_match and args.match is None:
        raise UserError("--least-match needs --match, the folder of CLIP")
    if args.match is not None:
        name, match = captions.clip_match(args.match)
        job = replace(job, match=match, match_name=name, least_match=args.least_match)
    from data_pipelines.curate.caption_work import caption_clips

    rows = caption_clips(
        args.clips,
        job,
        data_dir=args.data_dir,
        most=args.most,
        meter=lambda todo: tqdm(todo, unit="clip", disable=None),
    )
    kept = [row for row in rows if row["kept"]]
    told = [row for row in kept if row["caption_model"] == job.name]
    flagged = sum(bool(row["caption_flags"]) for row in told)
    print(
        f"{args.clips}: {len(told)} of {len(kept)} kept clips have a caption of "
        f"{job.name}; {flagged} of them are flagged"
    )
    table = args.clips / "clips.parquet"
    say_next("soraxla", "prepare", "--source", table, "--out", "DATASET")


def _model_job(args: argparse.Namespace) -> Any:
    from soraxla.generation.captioning import load_writer
    from soraxla.tools.captions import model_job

    writer = load_writer(args.checkpoint, _writing(args))
    return model_job(writer, args.checkpoint.resolve().name)


def _endpoint_job(args: argparse.Namespace) -> Any:
    from data_pipelines.view import ViewConfig
    from soraxla.files.chat import Chat, ChatConfig
    from soraxla.tools.captions import PROMPT, endpoint_job

    if not args.model:
        raise UserError("--endpoint needs --model, the model's name there")
    if args.at_once < 1:
        raise UserError(f"--at-once is {args.at_once}, expected at least 1")
    chat = Chat(
        config=ChatConfig(
            url=args.endpoint,
            model=args.model,
            timeout=args.timeout,
            per_minute=args.per_minute,
            prices=tuple(args.prices),
            most_cost=args.most_cost,
        )
    )
    view = ViewConfig(frames=args.frames, side=args.side, patch=2)
    prompt = args.prompt or PROMPT
    return endpoint_job(chat, prompt=prompt, view=view, at_once=args.at_once)


def _writing(args: argparse.Namespace) -> Any:
    from soraxla.generation.captioning import Writing

    return Writing(beams=args.beams, top_p=args.top_p, seed=args.seed)


def _score(args: argparse.Namespace) -> None:
    import json

    from tqdm import tqdm

    from soraxla.evals.caption_score import caption_world, fact_scores
    from soraxla.files.atomic_file import atomic_file
    from soraxla.generation.captioning import load_writer

    writer = load_writer(args.checkpoint, _writing(args))

    def describe(views: Any) -> list[str]:
        return [written.text for written in writer.captions(views)]

    clips = caption_world(describe, writer.model.view, args.world, clips=args.clips)
    scored = list(tqdm(clips, unit="clip", total=args.clips, disable=None))
    found = fact_scores(scored)
    print(f"{'exactly right':<28}{'share':>7}  95 %          constant guess")
    for name, (right, constant) in found.items():
        span = f"{right.low:.3f} … {right.high:.3f}"
        print(f"{name:<28}{right.value:>7.3f}  {span}  {constant:.3f}")
    if args.out is not None:
        made = {
            "world": args.world,
            "captioner": writer.sha256,
            "clips": len(scored),
            "scores": {
                name: {**vars(right), "constant": constant}
                for name, (right, constant) in found.items()
            },
            "captions": [each._asdict() for each in scored],
        }
        with atomic_file(args.out) as partial:
            partial.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(args.out)
