"""The commands and programs of README.md and docs/, parsed or run at tiny sizes.

A fence after the line `<!-- runnable -->` is run. Sizes shrink by `EXTRA`, options that
each command gains, and by `TINY`, replacements in the text.
"""

import ast
import functools
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import soraxla
from soraxla.checkpoints.model_folder import save_folder
from soraxla.cli.main import main, parser
from soraxla.cli.train import configured
from soraxla.media.write import write_video
from tests import tiny
from tests.generation import fake

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
# Pages whose blocks train or sample; the others take a few seconds each.
SLOW = (
    "README",
    "training",
    "worlds",
    "finetune",
    "generate",
    "worldbench",
    "scaling",
    "api/index",
    "api/model",
    "api/generation",
)
ALTERNATIVES = ("README",)  # its blocks do the same thing, each in an own folder
START = {  # the folders that a page begins from
    "README": ("my_clips",),
    "curation": ("my_clips",),
    "dataset": ("my_clips",),
    "text_encoders": ("my_clips",),
    "training": ("my_clips", "my_dataset"),
    "finetune": ("my_dataset", "runs/dit"),
    "generate": ("runs/dit",),
    "worldbench": ("runs/worlds",),
    "scaling": ("my_dataset",),
    "evaluate": ("my_clips",),
    "api/index": ("my_clips",),
    "api/data": ("my_dataset",),
    "api/generation": ("runs/dit",),
}
# Pages whose first block is not run.
NOT_RUN = {
    "finetune": "it downloads weights",
    "captions": "it trains until captions can be scored",
    "tpu_pods": "it compiles for a TPU",
    "extending": "it applies a change, as tests/test_extending.py does",
    "index": "it has no block",
}

_LOOP = ("loop.steps=2", "loop.checkpoint_every=2", "loop.evaluators.preview=None")
_DIT = (
    *(*_LOOP, "pack.row_length=64", "pack.text_length=32", "pack.max_segments=4"),
    "step.model.remat=none",  # compiles faster
)


def _sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


EXTRA = {  # options that a command gains; the last of a name counts
    "train vae": _sets(*_LOOP, "step.model.latent_channels=4"),
    "train": _sets(*_DIT),
    "train --init": _sets(*_DIT),
    "scale": [
        *("--sizes", "debug", "--base-pflop", "1e-6", "--compute", "1,2"),
        *("--clips", "1", *_sets(*_DIT[2:], "eval_share=0.5")),
    ],
    "curate": ["--workers", "1"],
    "prepare": ["--vae", "tiny_vae", "--text-encoder", "hashed:16"],
    "generate": ["--size", "32x32", "--frames", "5", "--steps", "1"],
    "worlds": ["--clips", "4", "--workers", "1"],
    "worldbench": [
        "--families",
        "text",
        "--clips",
        "2",
        "--frames",
        "9",
        "--steps",
        "1",
    ],
}
TINY = (  # replacements in all programs
    (r"\bdit:(s|xs)\b", "dit:debug"),
    (r"\bvae:(xs-pictures|xs)\b", "vae:debug"),
    (r"size=\(640, 360\), frames=97", "size=(32, 32), frames=5"),
    (r"width=640, height=360, frames=97", "width=32, height=32, frames=5"),
    (r"width=256, height=256", "width=32, height=16"),
    (r"steps=30", "steps=1"),
    (r"batch_rows=16", "batch_rows=1"),
)


def _literal(word: str) -> object:
    try:
        return ast.literal_eval(word)
    except ValueError:
        return word


SETTINGS = {  # of soraxla.config
    key: _literal(value) for key, value in (word.split("=") for word in _DIT)
}


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    runnable: bool


def blocks(page: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page."""
    pattern = r"(<!-- runnable -->\n)?^```(\w*)\n(.*?)^```$"
    for match in re.finditer(pattern, page, re.DOTALL | re.MULTILINE):
        line = page.count("\n", 0, match.start(2)) + 1
        yield Block(line, match[2], match[3], match[1] is not None)


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words of every command of a shell program."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            end = words.index("&&")
            yield words[:end]
            words = words[end + 1 :]
        if words:
            yield words


def soraxla_commands(page: str) -> Iterator[list[str]]:
    """Yields every `soraxla` command of a page: fenced, indented or in a table."""
    fenced = [block.text for block in blocks(page) if block.language == "bash"]
    spans = re.findall(r"`((?:soraxla|tpu_scripts/\w+\.sh) [^`]*)`", page)
    indented = re.findall(r"^    soraxla (?:.*\\\n)*.*$", page, re.MULTILINE)
    for words in (w for text in (*fenced, *spans, *indented) for w in commands(text)):
        if words[0].startswith("tpu_scripts/") and "--" in words:
            words = ["soraxla", *words[words.index("--") + 1 :]]
        if words[0] == "soraxla" and not set("…*[") & set("".join(words)):
            yield words[1:]


def page_id(page: Path) -> str:
    """Returns a page's name, such as README, training or api/training."""
    name = page.relative_to(ROOT).with_suffix("").as_posix()
    return name.removeprefix("docs/")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_parses(page, capsys):
    """Finds commands, options, presets and settings that no longer exist."""
    if page_id(page) == "extending":  # its commands exist after its changes
        return
    command_line = parser()
    for words in soraxla_commands(page.read_text(encoding="utf-8")):
        if len(words) == 1 or words[0] == "VERB":  # the name of a command
            continue
        try:
            args = command_line.parse_args(words)
        except SystemExit:
            said = capsys.readouterr().err
            if "are required" in said:  # a part of a command, in prose
                continue
            pytest.fail(f"soraxla {shlex.join(words)}: {said}")
        if getattr(args, "config", None):
            configured(args.config, args.set)


@pytest.mark.parametrize("page", PAGES[1:], ids=page_id)
def test_a_page_opens_with_what_the_reader_can_do_and_a_command(page):
    text = page.read_text(encoding="utf-8")
    assert text.splitlines()[2].startswith("After this page you ")
    if page_id(page) not in NOT_RUN:
        assert next(blocks(text)).runnable


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", (*PAGES, ROOT / "ARCHITECTURE.md"), ids=page_id)
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(r"`([\w/]+/[\w/]+\.\w+)`", page.read_text(encoding="utf-8")))
    if page_id(page) == "extending":  # a file of a change
        named -= {"data_pipelines/sources/frames.py", "soraxla/evals/weight_rms.py"}
    named -= {"tpu_scripts/config.sh"}  # which a user writes
    sources = (ROOT, ROOT / "soraxla", ROOT / "docs")
    code = {name for name in named if name.endswith((".py", ".md", ".sh", ".ipynb"))}
    assert [n for n in code if not any((s / n).exists() for s in sources)] == []


def shrunk(words: list[str]) -> list[str]:
    """Returns a command at a tiny size."""
    kind, *rest = words
    if kind == "train" and rest[rest.index("--config") + 1].startswith("vae"):
        kind = "train vae"
    elif kind == "train" and "--init" in rest:
        kind = "train --init"
    if "--manifest" in rest:  # of a run that was tiny
        return words
    if "--seconds" in words:  # which --frames stands for
        place = words.index("--seconds")
        words = words[:place] + words[place + 2 :]
    extra = EXTRA.get(kind, [])
    if kind == "prepare":
        pairs = zip(extra[::2], extra[1::2], strict=True)
        extra = [word for pair in pairs if pair[0] not in rest for word in pair]
    return [*words, *extra]


def run_block(block: Block, where: str, names: dict[str, object]) -> None:
    """Runs a block in the current folder; `names` are shared by a page's programs."""
    text = block.text
    for pattern, small in TINY:
        text = re.sub(pattern, small, text)
    if block.language == "python":
        exec(compile(text, where, "exec"), names)
        return
    assert block.language == "bash", f"{where}: only bash and python run"
    for words in commands(text):
        assert words[0] == "soraxla", f"{where}: {words[0]} is no command of soraxla"
        assert main(shrunk(words[1:])) == 0, f"{where}: {shlex.join(words)}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with all that pages begin from: media, a dataset, tiny models."""
    home = tmp_path_factory.mktemp("home")
    clips = home / "my_clips"
    clips.mkdir()
    y, x = np.mgrid[:32, :48] * 4.0
    frames = [np.stack([x + 5 * t, y, 0 * x + 90], -1) for t in range(9)]
    write_video(clips / "a.mp4", [f.astype(np.uint8) for f in frames], 12)
    write_video(clips / "b.png", [frames[0][:, :32].astype(np.uint8)], 1)
    (clips / "a.txt").write_text("colours that drift")
    (clips / "b.txt").write_text("colours that stand still")
    model, own_vae = tiny.loaded_dit(), tiny.loaded_vae()
    for folder in ("runs/dit", "runs/worlds"):
        save_folder(home / folder / "dit", model.params, model.config)
        save_folder(home / folder / "vae", own_vae.params, own_vae.config)
    shutil.copytree(home / "runs/dit/vae", home / "tiny_vae")
    return home


def bring(name: str, home: Path, here: Path) -> None:
    """Puts a folder of `home` into the folder in which a page runs."""
    if name == "my_dataset" and not (home / name).exists():
        source = ["--source", str(home / "my_clips"), "--vae", str(home / "tiny_vae")]
        encoder = ["--text-encoder", "hashed:16", "--out", str(home / name)]
        assert main(["prepare", *source, *encoder]) == 0
    (here / name).parent.mkdir(exist_ok=True)
    os.symlink(home / name, here / name)


RUNNABLE = [
    pytest.param(
        page,
        id=page_id(page),
        marks=[pytest.mark.slow] if page_id(page) in SLOW else [],
    )
    for page in PAGES
    if any(block.runnable for block in blocks(page.read_text(encoding="utf-8")))
    and page_id(page) != "tour"  # tests/test_tour.py runs it
]


@pytest.fixture
def small_api(monkeypatch):
    """The Python API with tiny defaults, on one device of the eight."""
    config, prepare, devices = soraxla.config, soraxla.prepare, jax.devices()

    def tiny_config(spec, overrides=None, **keys):
        return config(spec, {**(overrides or {}), **SETTINGS}, **keys)

    small = {"vae": "tiny_vae", "text_encoder": "hashed:16"}
    monkeypatch.setattr(soraxla, "config", tiny_config)
    monkeypatch.setattr(soraxla, "prepare", functools.partial(prepare, **small))
    monkeypatch.setattr(jax, "devices", lambda *_: devices[:1])


@pytest.mark.usefixtures("small_api")
@pytest.mark.parametrize("page", RUNNABLE)
def test_runnable_blocks_run(page, home, tmp_path, monkeypatch):
    if page_id(page) == "curation":
        pytest.importorskip("cv2", reason="cv2 is in the extra curate")
    if page_id(page) not in SLOW:  # they are about files
        monkeypatch.setattr("soraxla.tools.prepare.encode_clips", fake.encode_clips)

    def enter(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        for name in ("tiny_vae", *START.get(page_id(page), ())):
            bring(name, home, folder)

    enter(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.runnable:
            if page_id(page) in ALTERNATIVES:
                enter(tmp_path / f"line_{block.line}")
            run_block(block, f"{page.name}:{block.line}", names)
