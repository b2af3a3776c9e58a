"""Plans of topologies: what is wrong is one line, what is shipped does not grow."""

import functools
import io
import json
import math
import os
import re
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from soraxla.cli import plan, pulse
from soraxla.cli.main import main, parser
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.models.dit.config import dit_config
from soraxla.models.dit.flops import forward_flops, token_flops, train_flops
from soraxla.parallel.mesh import MeshConfig, make_mesh
from soraxla.tools import memory_plan, topologies
from soraxla.tools.memory_plan import filling_rows, fitted
from soraxla.tools.topologies import CHIPS, topology_devices, topology_name
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.presets import load_preset, split

ROOT = Path(__file__).parents[2]
PLANS = ROOT / "tpu_scripts" / "plans"


def test_the_count_is_that_of_dit_xl_2():
    """DiT-XL/2 at 256² is 237 GFLOP (arXiv 2212.09748), beside its text."""
    cfg = dit_config(
        "debug", layers=28, width=1152, heads=16, mlp_width=4608, text_width=1
    )
    text = 28 * 4 * 1152**2 * 256  # cross-attention's q and o, which DiT has not
    count = forward_flops(cfg, [256], [1]) - text
    assert count == pytest.approx(237e9, rel=0.01)


def test_gates_and_the_copy_s_attention_are_counted():
    plain, gated = (dit_config("xs", input_gate=gate) for gate in (False, True))
    more = forward_flops(gated, [10], [1]) - forward_flops(plain, [10], [1])
    assert more == 4 * (2 * 256 * 64 * 10) + 2 * (2 * 64 * 10 * 10)


def test_local_layers_are_counted():
    """Eleven taps a channel and an MLP each, between two maps."""
    settings = [
        {"local_layers": n, "local_width": 8, "patch": (1, 2, 1)} for n in (0, 3)
    ]
    plain, local = (
        forward_flops(dit_config("xs", **s), [10, 3], [1, 1]) for s in settings
    )
    a_latent = 2 * 16 * 8 + 256 * 8 + 3 * (11 * 8 + 4 * 8 * 8) + 8 * 16
    assert local - plain == 2 * a_latent * 2 * 13


def test_a_forecast_is_counted():
    """The counted work has two frames and their times, then the network and a gate."""
    settings = [
        {"forecast_layers": n, "local_width": 8, "patch": (1, 2, 1)} for n in (0, 3)
    ]
    plain, told = (
        forward_flops(dit_config("xs", **s), [10, 3], [1, 1]) for s in settings
    )
    a_latent = 2 * 16 * 8 + 2 * 8 + 3 * (9 * 8 + 4 * 8 * 8) + 8 * 16
    assert told - plain == 2 * (2 * a_latent + 2 * 256 * 32) * 13


def test_work_follows_segments_and_not_rows():
    cfg = dit_config("xs")
    one, four = (
        forward_flops(cfg, [4096], [64]),
        forward_flops(cfg, [1024] * 4, [16] * 4),
    )
    assert one - four == pytest.approx(4 * 256 * 8 * (3 * 4096**2 / 4), rel=0.03)
    assert train_flops(cfg, [7], [3]) == 3 * forward_flops(cfg, [7], [3])


def command(*arguments):
    """Runs `soraxla plan` in another process, where libtpu finds one CPU device."""
    own = ("JAX_", "XLA_FLAGS")  # of these tests
    environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return subprocess.run(
        [sys.executable, "-m", "soraxla.cli.main", "plan", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def refusal(*arguments):
    done = command("--config", "configs/dit.py:debug", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("soraxla plan: ")
    return line


@pytest.mark.slow
def test_what_cannot_be_planned_is_one_line():
    pytest.importorskip("libtpu")
    assert "v5e has 1x1, 2x2, 2x4" in refusal("--topology", "v5e:3x3")
    folder = refusal("--topology", "v5e:2x2", "--json", "/no/such/folder/x.json")
    assert "the folder /no/such/folder does not exist" in folder
    assert "unknown topology 'v9:2x2'" in refusal("--topology", "v9:2x2")
    assert "batch_rows is 0" in refusal("--topology", "v5e:2x2", "--rows", "0")
    mesh = ("--topology", "v5e:2x2", "--set")
    assert "has 3 devices, but there are 4" in refusal(*mesh, "mesh.fsdp=3")
    assert "unknown setting 'mesh.width'" in refusal(*mesh, "mesh.width=4")
    assert "batch_rows is 2" in refusal("--topology", "v5e:2x2", "--rows", "2")
    mesh = (*mesh, "mesh.fsdp=1", "--set")
    line = refusal(*mesh, "mesh.context=4", "--row-length", "1022")
    assert "pack.row_length is 1022" in line
    line = refusal(*mesh, "mesh.tensor=4", "--rows", "4")
    assert "step.model.heads is 2" in line


def test_a_slice_may_have_the_name_that_cloud_tpu_has_for_it():
    names = "v5litepod-8", "v5p-128", "v6e-64", "tpu7x-8", "v7x:2x2x1"
    shapes = "v5e:2x4", "v5p:4x4x4", "v6e:8x8", "tpu7x:2x2x1", "tpu7x:2x2x1"
    assert tuple(map(topology_name, names)) == shapes


def test_every_slice_that_can_be_created_can_be_planned():
    """`read_accelerator` of lib.sh has the sizes that Cloud TPU sells."""
    script = (ROOT / "tpu_scripts" / "lib.sh").read_text(encoding="utf-8")
    one_core, v5p = re.findall(r"sizes='([^']+)'", script)
    small = [int(size) for size in v5p.split(" or ")[0].split()]
    sizes = {
        "v5litepod": [int(size) for size in one_core.split()],
        "v6e": [int(size) for size in one_core.split()],
        "v5p": [*small, *range(128, 12288 + 1, 128)],
    }
    for prefix, numbers in sizes.items():
        for number in numbers:
            name = topology_name(f"{prefix}-{number}")
            chip, _, shape = name.partition(":")
            chips = math.prod(map(int, shape.split("x")))
            assert chip in CHIPS
            assert chips * (2 if prefix == "v5p" else 1) == number
    assert topology_name("v5p-2048") == "v5p:8x8x16"
    assert topology_name("v5p-100") == "v5p-100"


def test_a_plan_that_cannot_be_written_is_refused_before_it_is_made(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("soraxla.cli.plan._planner", lambda args: 1 / 0)
    words = ["plan", "--config", "dit:debug", "--topology", "v6e-8", "--json"]
    for path, text in (
        (tmp_path / "no" / "x.json", f"the folder {tmp_path / 'no'} does not exist"),
        (tmp_path, "is a folder; name a file"),
    ):
        assert main([*words, str(path)]) == 2
        assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_out_of_memory_is_one_line_with_the_amounts():
    pytest.importorskip("libtpu")
    size = ("--config", "configs/dit.py:wan_1_3b", "--set", "mesh.fsdp=1")
    line = refusal(*size, "--topology", "v5e:2x4", "--rows", "8")
    assert "train does not fit a chip of v5e:2x4: it needs " in line
    assert "GiB of 15.75 GiB" in line


def test_what_is_not_named_is_what_the_commands_choose(monkeypatch):
    """A training has rows for all chips; to sample, all of them share one."""
    monkeypatch.setattr(memory_plan, "topology_devices", lambda _: jax.devices()[:4])
    _, config = split(load_preset("dit:debug"))
    cfg = build(DiTTrainingConfig, {**config, "batch_rows": 6})
    train = fitted(cfg, "four", what="train", rows=False)
    assert (train.batch_rows, train.mesh) == (8, cfg.mesh)
    assert fitted(cfg, "four", what="train", rows=True) == cfg
    sample = fitted(cfg, "four", what="sample", rows=False)
    assert (sample.batch_rows, sample.mesh.context, sample.mesh.fsdp) == (1, 4, 1)
    named = replace(cfg, mesh=MeshConfig(context=2))
    assert fitted(named, "four", what="sample", rows=True) == named
    accumulated = replace(named, accumulate=2)  # in training only
    assert fitted(accumulated, "four", what="sample", rows=True) == named


@pytest.mark.slow
def test_a_sampler_s_step_is_guided_and_the_estimate_is_of_one(tmp_path):
    pytest.importorskip("libtpu")
    out = tmp_path / "plan.json"
    size = ("--config", "configs/dit.py:debug", "--row-length", "1024")
    done = command(
        *size, "--topology", "v5e:2x2", "--what", "sample", "--json", str(out)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(out.read_text())
    text = made["settings"]["pack"]["text_length"]
    assert made["mesh"]["context"] == 4 and made["tokens"] == 1024
    assert made["flops"] == 2 * token_flops(dit_config("debug"), [1024], [text])
    sending = sent(made) / (CHIPS["v5e"].ici_gigabytes * 1e9)
    computing = made["flops"] / (4 * CHIPS["v5e"].bf16_teraflops * 1e12)
    assert made["estimate_seconds"] == pytest.approx(max(sending, computing))


@pytest.mark.slow
def test_a_train_step_cut_along_every_axis_compiles(tmp_path):
    """Two heads on two devices of `tensor` leave none to trade: keys travel the ring,
    and their gradients, in fp32, with them."""
    pytest.importorskip("libtpu")
    out = tmp_path / "plan.json"
    size = ("--config", "configs/dit.py:debug", "--rows", "2", "--row-length", "2048")
    axes = ("fsdp", "context", "tensor")
    mesh = [word for axis in axes for word in ("--set", f"mesh.{axis}=2")]
    done = command(*size, "--topology", "v5e:2x4", *mesh, "--json", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    sent_round = {
        c["shape"].partition("[")[0]
        for c in json.loads(out.read_text())["collectives"]
        if c["kind"] == "collective-permute" and c["in_loop"]
    }
    assert sent_round == {"bf16", "f32", "s32"}


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    """In a clone: no index has soraxla."""
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[plan\]'"):
        topology_devices("v5e:2x2")


@pytest.mark.parametrize(
    ("name", "listed", "absent"),
    [
        (
            "ironwood-128",
            ("v5e has 1x1, 2x2,", "v5p has 2x2x1,", "tpu7x has 2x2x1"),
            "mean",
        ),
        ("v4-8", ("v5e has 1x1, 2x2,", "v5p has 2x2x1,", "tpu7x has 2x2x1"), "v4 has"),
        ("tpu7x", ("tpu7x has 2x2x1, 2x2x2", "CHIP:SHAPE"), "v5e has"),
        ("v5e-3", ("v5e has 1x1, 2x2, 2x4", "v5p-128"), "v6e has"),
    ],
)
def test_a_name_that_is_no_topology_gets_a_list(name, listed, absent):
    with pytest.raises(UserError) as error:
        topology_devices(name)
    assert all(words in str(error.value) for words in (name, *listed))
    assert absent not in str(error.value)


def test_a_compiler_that_is_older_than_a_chip_says_so(monkeypatch):
    def refused(**_):
        raise ValueError("INVALID_ARGUMENT: Invalid TPU external name: TPU7x")

    older = types.SimpleNamespace(__version__="0.0.17")
    monkeypatch.setitem(sys.modules, "libtpu", older)
    monkeypatch.setattr(topologies.topologies, "get_topology_desc", refused)
    with pytest.raises(UserError, match=r"libtpu 0\.0\.17 does not compile for tpu7x"):
        topology_devices("tpu7x:2x2x1")
    with pytest.raises(UserError, match="unknown topology 'tpu7x:3x3x3'"):
        topology_devices("tpu7x:3x3x3")


def planned(**changes):
    """A plan of 16 rows that take 6 of 16 GiB a chip, 2 of them for the weights."""
    gib, what = 2**30, {"batch_rows": 16}
    numbers = {"arguments": 2 * gib, "temporaries": 4 * gib, "peak": 6 * gib}
    made = memory_plan.Plan(
        **{"what": "train", "topology": "v5e:2x2", "chips": 4, "settings": what},
        **{"mesh": {"data": 4}, "compile_seconds": 3.0, **numbers, "hbm": 16 * gib},
        **{"collectives": [], "tokens": 1000, "flops": int(4 * 197e12 * 0.25)},
        **{"estimate_seconds": 0.5, "filling_rows": 56},
    )
    return replace(made, **changes)


def test_a_report_says_that_it_fits_and_how_fast_and_full():
    page = plan.report(planned())
    assert page.startswith("FITS: train on v5e:2x2, 4 chips as data 4")
    assert "about 56 would fill it" in page
    assert "at most 2,000 a second" in page and "MFU at most 50%" in page
    # A TPU7x chip is two devices for JAX.
    page = plan.report(planned(topology="tpu7x:2x2x1", chips=8))
    assert "tpu7x:2x2x1, 4 chips" in page and "2.00 GiB a device, 2 a chip" in page


def test_the_next_command_trains_what_was_planned():
    words = ["--config", "dit:xl", "--topology", "v5e:2x2", "--set", "accumulate=2"]
    args = parser().parse_args(["plan", *words])
    assert " ".join(plan._following(args, planned())) == (
        "soraxla train --config dit:xl --set batch_rows=16 --set accumulate=2 "
        "--data DATASET --workdir FOLDER"
    )


def test_rows_fill_the_memory_that_the_weights_leave():
    """16 rows take 4 GiB beside 2 of weights; 14 are free for them."""
    _, config = split(load_preset("dit:debug"))
    cfg = build(DiTTrainingConfig, {**config, "batch_rows": 16, "accumulate": 3})
    mesh = make_mesh(MeshConfig(fsdp=1, data=4), jax.devices()[:4])
    rows = functools.partial(filling_rows, cfg, mesh, held=2, hbm=16)
    assert rows(6) == 48  # of 56, those that 3 parts of 4 devices share
    assert rows(200) == 0
    assert filling_rows({"vae": {}}, mesh, 6, held=2, hbm=16) is None
    oom = "RESOURCE_EXHAUSTED: temporaries (33.58G) exceeds available HBM (15.75G)."
    found = memory_plan._refusal(ValueError(oom), "train", "v5e:2x2", lambda peak: 8)
    assert "needs 33.58 GiB of 15.75 GiB; about 8 rows would fill it" in str(found)
    assert "rows would" not in str(
        memory_plan._refusal(ValueError(oom), "train", "v5e:2x2", lambda peak: 0)
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_a_pulse_shows_that_a_command_is_alive(terminal, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(pulse, "_TERMINAL", 0.01)
    with pulse.pulse("compiling"):
        time.sleep(0.05)
    text = shown.getvalue()
    if terminal:
        assert text.count("\rcompiling: 0:00") > 1 and text.endswith(" \r")
    else:
        assert text == "compiling: 0:00\n"


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.json")), ids=lambda p: p.stem)
def test_a_shipped_plan_leaves_a_tenth_of_the_memory(path):
    made = json.loads(path.read_text())
    assert made["peak"] <= 0.9 * made["hbm"]
    assert made["collectives"] and made["command"]


@pytest.mark.slow
def test_a_shipped_plan_does_not_grow(tmp_path):
    pytest.importorskip("libtpu")
    shipped = json.loads((PLANS / "video_60s_1080p_v5p-128.json").read_text())
    out = tmp_path / "plan.json"
    done = command(*shipped["command"], "--json", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(out.read_text())
    assert made["peak"] <= 1.05 * shipped["peak"]
    assert sent(made) <= 1.05 * sent(shipped)
    assert jax.default_backend() == "cpu"


def sent(made):
    return sum(c["bytes"] for c in made["collectives"])
