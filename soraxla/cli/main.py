"""The `soraxla` command; each subcommand has a file that is loaded when it runs."""

import argparse
import contextlib
import difflib
import os
import sys
import traceback
import warnings
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn

from soraxla.core.allocator import keep_freed_pages
from soraxla.core.errors import UserError
from soraxla.core.paths import refuse_urls

VERBS = {
    "demo": "train on real clips and generate videos, in one command",
    "worlds": "make captioned clips of simulated worlds",
    "curate": "cut, score and filter raw films into a table of clips",
    "caption": "train a captioner, caption clips, and score captions",
    "prepare": "encode a folder or TFDS dataset into latents and text embeddings",
    "train": "train a VAE on media or a diffusion transformer on a prepared dataset",
    "generate": "generate videos and images",
    "scale": "train several sizes, and plot their losses by compute",
    "evaluate": "measure sets of clips, and compare them",
    "worldbench": "measure a model against simulated worlds",
    "import": "convert public weights into a model folder",
    "doctor": "check model, data and memory before a fine-tuning",
    "plan": "compile for a TPU topology, without a TPU, and report memory and traffic",
    "export": "write the weights of a training folder as safetensors",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class VerbParser(Parser):
    """The parser of one verb; it refuses arguments that it does not know.

    argparse would leave them to the parser of all verbs, whose help lacks the verb's
    options.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            known = self._option_string_actions
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.8)
            hint = f": did you mean {near[0]}?" if near else ""
            self.error(f"unknown argument {unknown[0]}{hint}")
        return found, unknown


def parser() -> Parser:
    """Returns the parser of all commands, without loading JAX or a large package."""
    top = Parser(prog="soraxla", description="One packed video diffusion transformer.")
    verbs = top.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=VerbParser
    )
    for verb, summary in VERBS.items():
        sub = verbs.add_parser(verb, help=summary, description=summary)
        _module(verb).add_arguments(sub)
        sub.add_argument(
            "--traceback",
            action="store_true",
            help="show the lines of code that lead to an error, for a report",
        )
    return top


def _module(verb: str) -> Any:
    name = f"{verb}_" if iskeyword(verb) else verb
    return import_module(f"soraxla.cli.{name}")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns its exit status.

    A mistake of the user's becomes one line on stderr and status 2, Ctrl-C status 130.
    Every other exception counts as a bug and is raised.
    """
    args = parser().parse_args(argv)
    keep_freed_pages()  # before JAX is imported
    from absl import logging

    # Orbax logs an error at length and then raises it, which suffices for our line.
    logging.set_verbosity(logging.FATAL)
    _keep_compiled()
    texts = ("prompt", "negative_prompt", "actions", "set", "traceback", "verb")
    try:
        module = _module(args.verb)
        texts += getattr(module, "URLS", ())
        places = {k: v for k, v in vars(args).items() if k not in texts}
        refuse_urls(**{f"--{k.replace('_', '-')}": v for k, v in places.items()})
        with (
            contextlib.redirect_stdout(_Reader(sys.stdout)),
            contextlib.redirect_stderr(_Reader(sys.stderr)),
        ):
            module.run(args)
    except (UserError, OSError, FloatingPointError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise  # it names no file for the user
        if args.traceback:
            traceback.print_exc()
        print(f"soraxla {args.verb}: {_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        said = str(error) or "interrupted"
        print(f"soraxla {args.verb}: {said}", file=sys.stderr)
        return 130
    return 0


class _Reader:
    """An output whose reader may go, such as `head`: the work goes on."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._tried(self._stream.write, text) or len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, call: Any, *args: Any) -> Any:
        try:
            return call(*args)
        except BrokenPipeError:
            # All that follows goes nowhere, at the interpreter's end too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return None


def _keep_compiled() -> None:
    """Keeps programs that take a second or more to compile in the user's cache.

    JAX reads its folder from `JAX_COMPILATION_CACHE_DIR`, which a user may have set.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(RuntimeError):  # a user without a home
            caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(caches, "soraxla"))
    # Programs that call oneDNN cannot be kept and are compiled again.
    unkept = "Error (reading|writing) persistent compilation cache"
    warnings.filterwarnings("ignore", unkept)


def _line(error: Exception) -> str:
    """Returns the message on one line, with the file first for a system error."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
