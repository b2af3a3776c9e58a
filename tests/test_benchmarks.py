"""Races: turns, comparisons before timing, and a peer in another process."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import card, damage, gallery, gpu, joins, short_prompts
from benchmarks.harness import (
    Peer,
    check_equal,
    matmul,
    race,
    ratio,
    write_report,
)
from benchmarks.sizes import published_sizes, tokens_of
from soraxla.assets import worlds_model
from soraxla.cli.main import parser
from soraxla.evals.worldbench.cases import SIZE
from soraxla.evals.worldbench.runner import FAMILIES, draw_cases
from soraxla.files.hashing import sha256_of_tree
from soraxla.generation.defaults import model_defaults, read_usage
from soraxla.generation.expansion import Expansion
from soraxla.generation.pipeline import load
from soraxla.generation.request import SamplingConfig
from soraxla.parallel.mesh import sampling_mesh

USUAL = model_defaults(read_usage(None))
# What `soraxla generate` does where no checkpoint is named.
AS_USED = {
    "takes": USUAL.takes,
    "condition_noise": USUAL.sampling["condition_noise"],
    "strength": USUAL.bridge,
    "window": joins.OVERLAP + (USUAL.onward or 0),
}


def recorder(name, log, seconds):
    def contender():
        log.append(name)
        return seconds.pop(0)

    return contender


def test_contenders_take_turns_and_the_first_call_is_apart():
    log = []
    timings = race(
        {
            "a": recorder("a", log, [9.0, 3.0, 1.0, 2.0, 5.0, 4.0]),
            "b": recorder("b", log, [8.0, 4.0, 4.0, 4.0, 4.0, 4.0]),
        },
        rounds=5,
    )
    assert "".join(log) == "ab" + "ab" + "ba" + "ab" + "ba" + "ab"
    a = timings["a"]
    assert (a.first, a.minimum, a.median) == (9.0, 1.0, 3.0)
    assert a.rounds == (3.0, 1.0, 2.0, 5.0, 4.0)
    assert ratio(timings["b"], a) == {
        "by_min": 4.0,
        "by_median": 4 / 3,
        "worst_round": 0.8,
    }
    with pytest.raises(ValueError, match="at least 5"):
        race({}, rounds=4)


def test_outputs_that_differ_stop_a_benchmark():
    one = {"x": np.full(4, 2.0), "y": jnp.ones((2, 3))}
    assert check_equal(one, one, tolerance=0.0) == {"x": 0.0, "y": 0.0}
    near = {**one, "x": np.full(4, 2.02)}
    assert check_equal(near, one, tolerance=0.02)["x"] == pytest.approx(0.01)
    for other, message in (
        (near, "x: outputs differ by"),
        ({**one, "x": np.full(4, np.nan)}, "x: outputs differ by nan"),
        ({**one, "y": np.ones((3, 2))}, "y: shapes differ"),
        ({"x": one["x"]}, "different names"),
    ):
        with pytest.raises(ValueError, match=message):
            check_equal(other, one, tolerance=1e-3)


@pytest.mark.slow
def test_a_peer_runs_in_turn_and_exchanges_arrays(tmp_path):
    with Peer(sys.executable, "tests.fake_peer", ["5"]) as peer:
        assert peer.about == {"versions": {"numpy": np.__version__}}
        outputs = peer.outputs("slow", tmp_path / "theirs.npz")
        assert check_equal({"x": 2 * np.arange(5)}, outputs, tolerance=0.0)
        timings = race({"ours": matmul("float32"), "theirs": peer.case("slow")})
        assert timings["theirs"].minimum >= 0.01
        report = tmp_path / "report.json"
        write_report(report, {"fill": 0.5}, timings=timings, peer=peer)
    assert peer._process.returncode == 0
    written = json.loads(report.read_text())
    assert written["results"] == {"fill": 0.5} and written["peer"] == peer.about
    assert len(written["timings"]["ours"]["rounds_s"]) == 7
    for key in ("date", "commit", "command", "versions", "flags", "machine"):
        assert key in written


def test_a_peer_that_dies_is_named(capfd):
    with (
        Peer(sys.executable, "tests.fake_peer", ["5"]) as peer,
        pytest.raises(OSError, match=r"tests\.fake_peer ended with exit status 3"),
    ):
        peer.case("dies")()
    with pytest.raises(OSError, match="exit status 1"):
        Peer(sys.executable, "tests.fake_peer")
    assert "IndexError" in capfd.readouterr().err


@pytest.mark.slow
def test_what_fails_on_a_gpu_says_so_and_stops_nothing(tmp_path, monkeypatch, capsys):
    def broken(sizes):
        yield "broken", lambda: {}["no such thing"]

    monkeypatch.setattr(gpu, "attentions", broken)
    for name in ("training", "decoding", "sampling"):
        monkeypatch.setattr(gpu, name, lambda sizes: iter(()))
    file = tmp_path / "report.json"
    results = gpu.main(gpu.TINY, 60.0, file)
    assert results["product of 128"]["tflops"] > 0
    assert results["broken"] == {"error": "KeyError: 'no such thing'"}
    report = json.loads(file.read_text())
    assert report["results"] == results and report["commit"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("broken")
    late = gpu.main(gpu.TINY, 0.0, None)
    assert late["broken"] == {"error": "not run: 0 s were over"}


def test_the_gallerys_commands_are_commands_on_what_it_is_given(tmp_path):
    """Every file that a command reads is given, and each task has one."""
    gallery.write_inputs(tmp_path)
    readme = (gallery.ROOT / "README.md").read_text(encoding="utf-8")
    made, read = set(), set()
    for words in gallery.commands(readme):
        args = parser().parse_args(words[1:])
        made.add(args.out)
        named = [args.image, args.last_image, args.extend, args.loop, args.edit]
        named += [args.inpaint, args.mask, *(args.connect or [])]
        read |= {str(name) for name in named if name}
        assert f"docs/gallery/{args.out}" in readme
    assert len(made) == 11
    assert read == {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def record():
    """Returns the results on record of the shipped model's joins."""
    file = gallery.ROOT / "benchmarks" / "results" / "joins_worlds.json"
    return json.loads(file.read_text())["results"]


def test_the_joins_on_record_are_of_the_shipped_model_as_it_is_used(record):
    """And do not show in eight clips of ten, where those of random weights do."""
    assert record["sha256"] == sha256_of_tree(load(worlds_model()).dit.params)
    used = {name: record["settings"][name] for name in AS_USED}
    assert used == AS_USED and record["settings"]["first seed"] == joins.TELLING
    check_joins(record["joins"]["model"])
    for name, ratios in record["joins"]["random weights"].items():
        assert passing(ratios) <= 0.2 * joins.CLIPS, name


@pytest.mark.slow  # some fifteen minutes
def test_the_joins_on_record_are_made_again(record):
    """Those of the first two clips, with the settings on record."""
    used = record["settings"]
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    settings = {name: used[name] for name in names}
    settings["cfg_interval"] = tuple(settings["cfg_interval"])
    clips = joins.held_out(2, used["first seed"])
    onward = used["window"], used["strength"]
    with jax.set_mesh(sampling_mesh()):
        pipeline = load(worlds_model())
        found = joins.joined(pipeline, SamplingConfig(**settings), clips, *onward)
    for name, ratios in found.joins.items():
        # The first clip is connected with another one here.
        again = slice(1 if name == "connect" else 0, 2)
        expected = record["joins"]["model"][name][again]
        assert ratios[again] == pytest.approx(expected, rel=0.02), name


def check_joins(found):
    for name, ratios in found.items():
        assert len(ratios) == joins.CLIPS and passing(ratios) >= 0.8 * joins.CLIPS, name


def passing(ratios):
    return sum(ratio <= joins.PASSES for ratio in ratios)


def test_the_mix_of_sizes_is_as_published_and_shrinks_exactly():
    index = published_sizes()
    tokens = tokens_of(index)
    assert (round(tokens.mean()), tokens.max(), len(set(tokens))) == (4206, 16320, 120)
    assert abs((index.t == 1).mean() - 0.3) < 1e-3
    for shrink in (2, 4):
        small = tokens_of(published_sizes(shrink=shrink))
        np.testing.assert_array_equal(small * shrink**2, tokens)


def test_damage_grows_with_its_strength():
    rng = np.random.default_rng(0)
    video, other = (rng.integers(0, 256, (17, 8, 8, 3), np.uint8) for _ in range(2))
    for kind in ("noise", "blur", "frozen"):
        errors = [
            np.abs(damage.damaged(video, other, kind, at, 0).astype(int) - video).mean()
            for at in damage.STRENGTHS[kind]
        ]
        assert errors[0] > 0 and np.all(np.diff(errors) > 0), kind
    for at in damage.STRENGTHS["shuffled"]:
        found = damage.damaged(video, other, "shuffled", at, 1)
        assert sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in video)
        assert not np.array_equal(found, video)
    for at in damage.STRENGTHS["other world"]:
        made = (damage.damaged(video, other, "other world", at, i) for i in range(64))
        share = np.mean([np.array_equal(x, other) for x in made])
        assert share == pytest.approx(at, abs=0.13)


def test_a_distance_that_falls_or_hides_among_real_clips_does_not_grow():
    real = {"real": [{"value": 1.0, "high": 1.5}]}
    for values, grows in (
        ((2, 3, 4, 5), True),
        ((2, 4, 3, 5), False),
        ((1.2, 3, 4, 5), False),
    ):
        found = real | {
            kind: [{"value": v} for v in values] for kind in damage.STRENGTHS
        }
        assert set(damage.grows(found).values()) == {grows}


@pytest.mark.slow
def test_the_gain_by_expansion_is_of_clips_with_the_same_noise():
    """A model that obeys captions only, and draws nothing else."""
    truths = [case.truth for case in draw_cases(FAMILIES["text"], 3, SIZE)]

    class Model:
        defaults = USUAL

        def expand(self, prompt):
            return Expansion(prompt, f"a {prompt} moves", "a test")

        def generate_each(self, requests, settings):
            for i, request in reversed(list(enumerate(requests))):
                assert request.noise == i and settings.seed == 0
                known = request.prompt.endswith("moves")
                yield i, truths[i].video if known else truths[i].video * 0

    found, texts = short_prompts.right(Model(), 3)
    assert not found["plain"].any() and found["expanded"].all() and len(texts) == 3
    gain = short_prompts.summary(found)["gain"]["both"]
    assert (gain.value, gain.low, gain.n) == (1.0, 1.0, 3)


def test_a_card_gets_the_numbers_between_its_marks(tmp_path):
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    measure = {
        **{"value": interval, "normalised": {"value": None}, "unit": "pixels"},
        **{"clips": 16, "ceiling": 0.0, "floors": {"static": 2.0}},
    }
    metrics = {"psnr": {**interval, "n": 64, "better": "higher"}}
    found = {
        "worldbench": {"families": {"count": {"measures": {"error": measure}}}},
        "generated": {"metrics": {}},
        "vae": {"metrics": metrics},
    }
    section = card.tables(found, "the command")
    row = "| count: error (pixels) | 16 | 0.5 (0.25 … 0.75) | 0.00 | static 2.00 | – |"
    assert row in section.splitlines()
    assert "| psnr | 64 | 0.5 (0.25 … 0.75) | higher |" in section.splitlines()
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    card.written(file, section)
    begin, end = card.BEGIN, card.END
    assert file.read_text() == f"before\n{begin}{section}{end}after\n"
    card.marked(worlds_model() / "README.md")
    file.write_text("no marks")
    with pytest.raises(SystemExit, match="has no lines <!-- measured -->"):
        card.written(file, section)
