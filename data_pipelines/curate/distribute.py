"""The distribution of curation by Apache Beam: files, then bands of hashes.

Beam hands each file to a worker, which stores its rows under `progress/` as one process
would. A file that is retried after a lost worker is found there. Hashes of key frames
are grouped by band, and one worker finds a group's near pairs.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.curate import remote
from data_pipelines.curate.film import CurateConfig, LoadScorers
from data_pipelines.curate.work import Film
from soraxla.core.errors import UserError

Pair = tuple[str, str, int]
_LINES = "lines"  # below progress/: the answers of workers, a line of JSON each
_POLL = (0.5, 10.0)  # seconds, of a local folder and of an object store


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The processes of this machine, or a runner of Beam with its options.

    Attributes:
        options: "K=V", or "K" for a switch.
    """

    workers: int
    runner: str | None = None
    options: Sequence[str] = ()

    def flags(self) -> list[str]:
        """Returns Beam's command line."""
        if self.runner is not None:
            given = [f"--{option.lstrip('-')}" for option in self.options]
            return [f"--runner={self.runner}", *given]
        return [f"--direct_num_workers={self.workers}"]


def run(
    films: Sequence[Film],
    cfg: CurateConfig,
    load_scorers: LoadScorers,
    how: Distribution,
    *,
    shown: bool,
) -> tuple[list[tuple[Film, str]], set[Pair]]:
    """Returns the files with their SHA-256, in order, and the near pairs of clips.

    Raises:
        UserError: Beam is missing, it does not know the runner or an option's value, or
            a file changed or could not be stored.
    """
    options = _options(how)
    lines = f"{films[0].progress}/{_LINES}"
    with remote.naming(lines):
        remote.clear(lines)  # what a killed run left
        if not remote.is_remote(lines):
            Path(lines).mkdir(parents=True)
    with _bar(films, lines, shown):
        runner = None if how.runner else _local_processes()
        _run(options, runner, films, cfg, load_scorers, lines)
    answers = dict(_read(lines, "files"))
    near = {(small, large, bits) for small, large, bits in _read(lines, "pairs")}
    remote.clear(lines)
    for film in films:
        if "error" in answers[film.source]:
            raise UserError(answers[film.source]["error"])
    return [(film, answers[film.source]["sha256"]) for film in films], near


def check_installed() -> None:
    """Raises UserError without Beam."""
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "several workers and runners need Apache Beam; run pip install "
            "'soraxla[beam]', or pass --workers 1"
        )


def _options(how: Distribution) -> Any:
    """Returns Beam's options, all of them parsed, for a runner that exists."""
    check_installed()
    # Beam reports the extras that are not installed, and each of its optimisations.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    with _silent_root():
        parsing: Any = importlib.import_module("apache_beam.options.pipeline_options")
        runners: Any = importlib.import_module("apache_beam.runners.runner")
    made = parsing.PipelineOptions(how.flags())
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made.get_all_options()
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"--runner-option: {reason}; correct it") from None
    if how.runner is not None:
        try:
            runners.create_runner(how.runner)
        except (ImportError, AttributeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"--runner {how.runner}: {reason}") from None
    return made


def _local_processes() -> Any:
    """Returns Beam's own runner in Python, with processes of this machine.

    "DirectRunner" would be a binary that Beam downloads. The processes report every
    step on stderr, and errors to the runner too.
    """
    environments: Any = importlib.import_module("apache_beam.transforms.environments")
    runners: Any = importlib.import_module(
        "apache_beam.runners.portability.fn_api_runner"
    )
    module = "apache_beam.runners.worker.sdk_worker_main"
    command = f"{shlex.quote(sys.executable)} -m {module} 2>{os.devnull}"
    made = environments.SubprocessSDKEnvironment.from_command_string(command)
    return runners.FnApiRunner(default_environment=made)


def _run(
    options: Any,
    runner: Any,
    films: Sequence[Film],
    cfg: CurateConfig,
    load_scorers: LoadScorers,
    lines: str,
) -> None:
    beam: Any = importlib.import_module("apache_beam")
    from data_pipelines.curate.beam_steps import ScoreFilms, add_steps

    # Workers of this machine take turns in this order: the largest first.
    ordered = sorted(films, key=lambda film: -film.size)
    with beam.Pipeline(runner, options=options) as pipeline:
        add_steps(pipeline, ordered, ScoreFilms(cfg, load_scorers, lines), lines)


@contextlib.contextmanager
def _silent_root() -> Iterator[None]:
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _read(lines: str, kind: str) -> Iterator[Any]:
    for name in remote.names(lines):
        if name.startswith(f"{kind}-"):
            for line in remote.read_text(f"{lines}/{name}").splitlines():
                yield json.loads(line)


@contextlib.contextmanager
def _bar(films: Sequence[Film], lines: str, shown: bool) -> Iterator[None]:
    """Shows how many files have ended, until the block ends."""
    done = threading.Event()

    def watch() -> None:
        with tqdm(total=len(films), unit="file", disable=not shown) as bar:
            while not done.wait(_POLL[remote.is_remote(lines)]):
                advance(bar)
            advance(bar)

    def advance(bar: Any) -> None:
        ended = sum(name.endswith(".done") for name in remote.names(lines))
        if ended > bar.n:
            bar.update(ended - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
