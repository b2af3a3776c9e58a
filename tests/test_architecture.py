"""The rooms of ARCHITECTURE.md, read from the imports of every file.

A file imports only from lines above its own in `ROOMS`, or from its own line; a new
solver, encoder, metric or dataset file falls under a line that is there, and a file of
a new kind needs a line here and there.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("soraxla", "data_pipelines")
TREES = (*PACKAGES, "configs", "tests", "benchmarks")

# From the ground up; a folder's `__init__.py` hands on names, so it is the last of it.
ROOMS = """
L0 soraxla/types.py
L0 soraxla/hosts.py
L0 soraxla/trees.py
L0 soraxla/settings.py
L0 soraxla/compiler.py
L0 soraxla/assets/__init__.py
L0 soraxla/collectives.py
L1 soraxla/sharding.py
L1 soraxla/patching.py
L1 soraxla/controls.py
L1 soraxla/mixture.py
L1 soraxla/packing.py
L1 soraxla/randomness.py
L1 soraxla/planning.py
L1 soraxla/rope.py
L1 soraxla/kernels/engine.py
L1 soraxla/kernels/blocks.py
L1 soraxla/kernels/bias.py
L1 soraxla/kernels/reference.py
L1 soraxla/kernels/xla_flash.py
L1 soraxla/kernels/tpu_splash.py
L1 soraxla/kernels/gpu_cudnn.py
L1 soraxla/kernels/over_mesh.py
L1 soraxla/kernels/__init__.py
L1 soraxla/attention.py
L1 soraxla/product.py
L1 soraxla/video_write.py
L1 soraxla/video_io.py
L1 soraxla/contact_sheet.py
L1 soraxla/tensors.py
L1 soraxla/diffusion/schedule.py
L1 soraxla/diffusion/normal.py
L1 soraxla/diffusion/process.py
L1 soraxla/diffusion/loss.py
L1 soraxla/diffusion/__init__.py
L2 soraxla/models/config.py
L2 soraxla/models/flops.py
L2 soraxla/models/layers.py
L2 soraxla/models/local.py
L2 soraxla/models/vae*.py
L2 soraxla/models/dit.py
L2 soraxla/models/text/*
L2 soraxla/models/__init__.py
L2 soraxla/sampling/grid.py
L2 soraxla/sampling/solvers.py
L2 soraxla/sampling/guidance.py
L2 soraxla/sampling/loop.py
L2 soraxla/sampling/tasks.py
L2 soraxla/sampling/seams.py
L2 soraxla/sampling/rows.py
L2 soraxla/sampling/__init__.py
L2 data_pipelines/worlds/*
L2 data_pipelines/*
L3 soraxla/autoencode.py
L3 soraxla/optim.py
L3 soraxla/checkpoint.py
L3 soraxla/lora.py
L3 soraxla/evals/*
L3 soraxla/training/state.py
L3 soraxla/training/steps.py
L3 soraxla/training/metrics.py
L3 soraxla/training/profile.py
L3 soraxla/training/loop.py
L3 soraxla/training/__init__.py
L3 soraxla/hub.py
L3 soraxla/weights.py
L3 soraxla/wan/*
L3 soraxla/training/finetune.py
L3 soraxla/training/linear_start.py
L3 soraxla/training/jobs.py
L4 soraxla/request.py
L4 soraxla/studio.py
L4 soraxla/recipes.py
L4 soraxla/pipeline.py
L4 soraxla/plan.py
L4 soraxla/preview.py
L4 soraxla/demo.py
L4 soraxla/doctor.py
L4 soraxla/__init__.py
L5 soraxla/cli/*
"""
LINES = [tuple(line.split()) for line in ROOMS.strip().splitlines()]

# Rooms of one level that do not know each other, whichever line is above.
APART = (
    ("soraxla/sampling/*", "soraxla/models/*"),
    ("soraxla/models/*", "soraxla/sampling/*"),
    ("data_pipelines/*", "soraxla/models/*"),
    ("data_pipelines/*", "soraxla/sampling/*"),
)

# What each outside library is confined to.
CONFINED = {
    "flax": ("soraxla/models/*",),
    "grain": ("data_pipelines/*", "soraxla/checkpoint.py"),
    "tensorflow": (),
}

# Rooms that run the same on any platform, mesh and number of hosts, and the names by
# which they could tell.
BLIND = ("soraxla/models/*", "soraxla/sampling/*", "soraxla/training/*")
TELLING = {
    *("kernels", "platform", "default_backend", "devices", "local_devices"),
    *("device_count", "local_device_count", "process_count", "process_index"),
}

Sources = Mapping[str, str]  # path from the root, with /, to its text


def read_sources(*folders: str) -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported_names(path: str, text: str) -> Iterator[str]:
    """Dotted names a file imports, anywhere in it: `from a.b import c` is a.b.c."""
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            parts = base + (node.module.split(".") if node.module else [])
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def imported_files(path: str, sources: Sources) -> set[str]:
    """The files of `sources` that a file imports."""
    files = set()
    for name in imported_names(path, sources[path]):
        stem = name.replace(".", "/")
        parent = stem.rpartition("/")[0]
        for file in (
            f"{stem}.py",
            f"{stem}/__init__.py",
            f"{parent}.py",
            f"{parent}/__init__.py",
        ):
            if file in sources:
                files.add(file)
                break
    return files - {path}


def line_of(path: str) -> int | None:
    """The first line of `ROOMS` that a file falls under."""
    matches = (i for i, (_, room) in enumerate(LINES) if fnmatch(path, room))
    return next(matches, None)


def wrong_imports(sources: Sources) -> list[str]:
    """Imports of our own files that the table does not allow, and unplaced files."""
    wrong = [f"{path} is in no room" for path in sources if line_of(path) is None]
    for path in sources:
        for file in sorted(imported_files(path, sources)):
            own, other = line_of(path), line_of(file)
            if own is None or other is None:
                continue
            apart = any(fnmatch(path, a) and fnmatch(file, b) for a, b in APART)
            if own < other or apart:
                wrong.append(f"{path} ({LINES[own][0]}) imports {file}")
    return wrong


def cycle(sources: Sources) -> list[str]:
    """A ring of files that import each other; empty when there is none."""
    graph = {path: imported_files(path, sources) for path in sources}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def stray_libraries(sources: Sources) -> list[str]:
    """Imports of confined libraries outside the rooms they are confined to."""
    return [
        f"{path} imports {library}"
        for path, text in sources.items()
        for library in sorted(
            {name.split(".")[0] for name in imported_names(path, text)}
        )
        if library in CONFINED
        and not any(fnmatch(path, room) for room in CONFINED[library])
    ]


def telling_names(sources: Sources) -> list[str]:
    """What tells of platform, mesh or hosts, named in a room that is to be blind."""
    found = []
    for path, text in sources.items():
        if any(fnmatch(path, room) for room in BLIND):
            names = {part for n in imported_names(path, text) for part in n.split(".")}
            for node in ast.walk(ast.parse(text, path)):
                if isinstance(node, ast.Attribute):
                    names.add(node.attr)
            found += [f"{path} knows {name}" for name in sorted(names & TELLING)]
    return found


# --- The tree as it is ------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    return read_sources(*PACKAGES)


def test_every_file_imports_only_from_the_rooms_below_it(sources):
    assert wrong_imports(sources) == []


def test_every_line_of_the_table_has_a_file_and_a_word_in_the_page(sources):
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for _, room in LINES:
        assert any(fnmatch(path, room) for path in sources), f"no file for {room}"
        name = room.removesuffix("/__init__.py").removesuffix("/*").rpartition("/")[2]
        assert name.partition("*")[0] in page, f"ARCHITECTURE.md says nothing of {room}"


def test_no_files_import_each_other_in_a_ring(sources):
    assert cycle(sources) == []


def test_flax_grain_and_tensorflow_stay_where_they_belong(sources):
    assert stray_libraries(sources) == []


def test_models_samplers_and_training_do_not_know_what_they_run_on(sources):
    assert telling_names(sources) == []


def test_files_are_short_and_none_is_called_utils():
    everything = read_sources(*TREES)
    long = {p: t.count("\n") for p, t in everything.items() if t.count("\n") > 400}
    assert long == {}
    assert [path for path in everything if path.endswith("/utils.py")] == []


def test_the_command_line_starts_without_jax(sources):
    """`--help` answers at once: jax is imported inside the functions that need it."""
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in sources
        if path.startswith("soraxla/cli/") or path == "soraxla/__init__.py"
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'jax' in sys.modules: sys.exit(f'{name} loads jax')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- The readers themselves -------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "imported"),
    [
        ("soraxla/rope.py", "import soraxla.types", "soraxla/types.py"),
        ("soraxla/rope.py", "from soraxla import types", "soraxla/types.py"),
        ("soraxla/rope.py", "from soraxla.types import Array", "soraxla/types.py"),
        ("soraxla/rope.py", "from .types import Array", "soraxla/types.py"),
        ("soraxla/models/dit.py", "from .. import types", "soraxla/types.py"),
        ("soraxla/cli/a.py", "def f():\n import soraxla.types", "soraxla/types.py"),
        ("soraxla/cli/a.py", "from soraxla import x", "soraxla/__init__.py"),
    ],
)
def test_imports_of_every_form_are_seen(path, text, imported):
    tree = {"soraxla/types.py": "", "soraxla/__init__.py": "", path: text}
    assert imported_files(path, tree) == {imported}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("soraxla/types.py", "import soraxla.rope"),  # up a level
        ("soraxla/patching.py", "import soraxla.rope"),  # up a line
        ("soraxla/types.py", "def f():\n    import soraxla.rope"),  # in a function
        ("soraxla/sampling/loop.py", "import soraxla.models.dit"),
        ("soraxla/models/dit.py", "import soraxla.sampling.loop"),
        ("data_pipelines/packed.py", "from soraxla.models import dit"),
        ("data_pipelines/packed.py", "from soraxla import checkpoint"),
        ("soraxla/helpers.py", ""),  # in no room
    ],
)
def test_a_wrong_import_is_found(path, text):
    rooms = ("types", "rope", "checkpoint", "models/dit", "sampling/loop")
    tree = {f"soraxla/{room}.py": "" for room in rooms}
    assert wrong_imports(tree) == []
    assert len(wrong_imports({**tree, path: text})) == 1


def test_a_ring_is_found():
    tree = {f"soraxla/evals/{name}.py": "" for name in "abc"}
    tree["soraxla/evals/a.py"] = "from soraxla.evals import b"
    tree["soraxla/evals/b.py"] = "def f():\n    from soraxla.evals.c import x"
    assert cycle(tree) == []
    tree["soraxla/evals/c.py"] = "import soraxla.evals.a"
    assert set(cycle(tree)) == {f"soraxla/evals/{name}.py" for name in "abc"}


@pytest.mark.parametrize(
    ("path", "text", "stray"),
    [
        ("soraxla/models/dit.py", "from flax import linen", False),
        ("soraxla/training/loop.py", "from flax import linen", True),
        ("soraxla/checkpoint.py", "import grain.checkpoint", False),
        ("soraxla/packing.py", "import grain", True),
        ("data_pipelines/a.py", "def f():\n    import tensorflow as tf", True),
        ("data_pipelines/a.py", "import tensorflow_datasets", False),
    ],
)
def test_a_stray_library_is_found(path, text, stray):
    assert bool(stray_libraries({path: text})) == stray


@pytest.mark.parametrize(
    "text",
    [
        "from soraxla.kernels import xla_flash",
        "from soraxla.compiler import platform",
        "import jax\nif jax.process_count() > 1: ...",
    ],
)
def test_what_tells_is_found(text):
    assert len(telling_names({"soraxla/training/a.py": text})) == 1
    assert telling_names({"soraxla/attention.py": text}) == []
