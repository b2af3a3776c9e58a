"""The truth reaches the ceiling, a copied frame the floor, and noise no more."""

import numpy as np
import pytest

from data_pipelines.worlds import occlusion
from data_pipelines.worlds.sizes import Size
from soraxla.evals.worldbench import cases as worldbench
from soraxla.evals.worldbench import permanence, physics, runner, text
from soraxla.packing.controls import Controls
from tests.marks import slow

SIZE = Size(width=64, height=64, frames=25, fps=16.0)
CLIPS = 3


# These two have files of tests, and take as long as all the others together.
FAST = [name for name in runner.FAMILIES if name not in ("consistency", "control")]


@pytest.fixture(scope="module", params=[*FAST, *slow("consistency", "control")])
def requested(request):
    family = runner.FAMILIES[request.param]
    return family, runner.draw_cases(family, CLIPS, SIZE)


def run(requested, video_of):
    """The outcome of a model that answers case i with `video_of(case)`."""
    family, cases = requested
    done = []

    def generate(asks):
        assert [len(ask.condition) for ask in asks] == [
            case.condition_frames for case in cases
        ]
        return [(i, video_of(cases[i])) for i in reversed(range(len(asks)))]

    outcome = runner.run_family(
        family,
        cases,
        Controls(),
        generate,
        lambda ask, video: video,
        lambda: done.append(1),
    )
    assert len(done) == 2 * CLIPS
    return outcome


def noise(case):
    rng = np.random.default_rng(case.seed)
    video = rng.integers(0, 256, case.truth.video.shape, dtype=np.uint8)
    video[: case.condition_frames] = case.truth.video[: case.condition_frames]
    return video


def test_the_truth_is_the_ceiling(requested):
    outcome = run(requested, lambda case: case.truth.video)
    ways = {name: number.normalised.value for name, number in outcome.numbers.items()}
    assert ways == dict.fromkeys(ways, 1.0)
    assert outcome.family_scores == {"mean": 1.0, "least": 1.0}


def test_a_copied_frame_is_the_floor(requested):
    family, _ = requested
    outcome = run(requested, worldbench.still)
    for name, number in outcome.numbers.items():
        assert not family.measures[name].copies or number.normalised.value <= 0.0
    assert outcome.family_scores["least"] == 0.0


@pytest.mark.slow
def test_noise_is_no_better(requested):
    assert run(requested, noise).family_scores["mean"] < 0.1


def test_cases_are_held_out_and_the_same_every_time(requested):
    family, cases = requested
    assert min(case.seed for case in cases) >= worldbench.FIRST_SEED
    again = family.case(worldbench.FIRST_SEED + 1, SIZE)
    assert again.seed == cases[1].seed
    np.testing.assert_array_equal(again.truth.video, cases[1].truth.video)
    assert all(
        (case.condition_frames - 1) % 4 == 0 or not case.condition_frames
        for case in cases
    )


def test_a_size_in_which_nothing_can_be_asked_is_refused(requested):
    family, _ = requested
    with pytest.raises(ValueError, match="use more frames"):
        family.case(worldbench.FIRST_SEED, Size(64, 64, 1, 16.0))


# --- Permanence -------------------------------------------------------------------


@pytest.fixture(scope="module")
def returning():
    seeds = range(worldbench.FIRST_SEED, worldbench.FIRST_SEED + 50)
    cases = (permanence.case(seed, SIZE) for seed in seeds)
    plain = {"black", "white"}  # of no hue
    return next(c for c in cases if not plain & set(c.truth.state["colour"]))


def test_what_is_given_ends_when_the_shape_is_gone(returning):
    visible = returning.truth.state["visible"]
    gone = (visible < 0.02).any(1)
    assert not gone[: returning.condition_frames - 1].any()
    assert gone[returning.condition_frames - 1 : returning.condition_frames + 4].any()
    assert (visible[returning.condition_frames :] > 0.9).any()


def test_a_shape_that_comes_back_moved_or_recoloured_is_noticed(returning):
    truth = returning.truth.video
    late = truth[
        np.arange(len(truth)) - (np.arange(len(truth)) >= returning.condition_frames)
    ]
    assert permanence.score(returning, late).values["position error"] > 0.5
    hue = np.roll(truth, 1, axis=-1)  # red to green, green to blue
    assert permanence.score(returning, hue).values["colour found"] == 0


# --- Physics ----------------------------------------------------------------------


def test_half_the_pace_is_wrong_in_all_that_is_measured():
    """Every generated frame twice: a quarter of the acceleration and energy."""
    case = physics.case(worldbench.FIRST_SEED + 1, SIZE)
    frames = np.arange(SIZE.frames)
    slow = np.where(
        frames < case.condition_frames,
        frames,
        case.condition_frames - 1 + (frames - case.condition_frames + 1) // 2,
    )
    right, wrong = (
        physics.score(case, video).values
        for video in (case.truth.video, case.truth.video[slow])
    )
    for name in physics.FAMILY.measures:
        assert np.isnan(right[name]) or wrong[name] > 3 * right[name] + 0.05, name


# --- Text -------------------------------------------------------------------------


def test_a_fifth_of_the_prompts_are_of_triples_that_no_dataset_has():
    cases = [text.case(worldbench.FIRST_SEED + i, SIZE) for i in range(10)]
    new = [tuple(text.requested(case.truth)) in occlusion.HELD_OUT for case in cases]
    assert new == [True, False, False, False, False] * 2
    assert all(case.condition_frames == 0 for case in cases)
    guesses = text.chance(cases)
    assert guesses["best constant guess"] >= 0.1
    assert guesses["guessing each word"] == 1 / 640


@pytest.mark.parametrize("place", [4, 54, 84])
def test_what_cannot_be_read_in_truth_is_not_asked(place):
    """The first clip of these seeds moves too little, before too like a colour."""
    case = text.case(worldbench.FIRST_SEED + place, worldbench.SIZE)
    assert case.seed > worldbench.FIRST_SEED + place
    assert text.score(case, case.truth.video).values["all three"] == 1
