"""A dataset that grows between the steps of a training."""

import json
import shutil
from itertools import islice

import pytest

from data_pipelines import records
from data_pipelines.dataset import open_dataset
from data_pipelines.held_out import as_it_began, split
from data_pipelines.mixture import mixed
from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.cli.train import configured
from soraxla.core.config import build
from soraxla.core.errors import UserError
from soraxla.packing.schedule import SCHEDULE_START, SCHEDULE_VERSION, schedule_steps
from soraxla.parallel.mesh import one_device
from soraxla.training import growth
from soraxla.training.data_record import EPOCHS, data_record, other_data
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.growth import as_trained
from soraxla.training.presets import split as split_kind
from soraxla.training.run import run_training
from tests import tiny
from tests.data_pipelines.datasets import GRIDS, write_dataset

NONE = dict.fromkeys(("tail", "first_last", "both_ends", "frames", "spatial"), 0.0)
CONFIG = configured(
    "dit:debug",
    [
        f"pack.mixture={ {**NONE, 'none': 0.7} }",
        *("pack.row_length=64", "pack.text_length=32", "batch_rows=2"),
        "loop.evaluators.preview=None",
    ],
)
CFG = build(DiTTrainingConfig, split_kind(CONFIG)[1])
# Enough samples that an epoch takes several windows, and its end is inside a window.
FEW = GRIDS * 60
STATES = (len(FEW), len(FEW) + 5, len(FEW) + 40)


def state(path, number):
    """Writes the dataset as it was after `number` additions."""
    grids = (FEW + GRIDS * 6)[: STATES[number]]
    write_dataset(path, grids, eval_samples=(1, STATES[0] + 1), text_width=16)
    card = json.loads((path / records.CARD).read_text())
    earlier = [{"fingerprint": f"f{i}", "samples": STATES[i]} for i in range(number)]
    card |= {"fingerprint": f"f{number}", **({"earlier": earlier} if number else {})}
    (path / records.CARD).write_text(json.dumps(card))
    return path


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    root = tmp_path_factory.mktemp("growth")
    return [open_dataset(state(root / f"data{i}", i)) for i in range(3)]


@pytest.fixture
def resume(tmp_path, monkeypatch):
    """A resume at a position, of a training whose record it writes."""

    def run(dataset, position):
        monkeypatch.setattr(growth, "saved_position", lambda _: position._asdict())
        made, words = as_trained(dataset, CFG, tmp_path)
        record = {"kind": "dit", "schedule": SCHEDULE_VERSION, **data_record(made)}
        (tmp_path / "train.json").write_text(json.dumps(record))
        return made, words, record

    return run


def steps(dataset, start=SCHEDULE_START):
    training, _ = split(dataset, 0.0)
    return schedule_steps(training.sizes, CFG.pack, seed=0, batch_rows=2, start=start)


def visits_of(steps_of):
    return {v.number: v.sample for _, rows in steps_of for row in rows for v in row}


@pytest.mark.parametrize("done", [0, 3, 16, 90])
def test_epochs_that_were_begun_stay_and_the_next_one_has_the_new_samples(
    states, resume, done
):
    """Every step of the group that is being trained stays, and so do those before."""
    before = list(islice(steps(states[0]), 200))
    position = before[done - 1][0] if done else SCHEDULE_START
    resume(states[0], SCHEDULE_START)
    grown, words, record = resume(states[1], position)
    [[_, now]] = record[EPOCHS]
    assert now["samples"] == STATES[1] and record["data"] == "f1"
    assert f"has 5 new samples, which are visited from epoch {now['epoch']} on" in words
    after = list(islice(steps(grown), 200))
    stays = (done + 15) // 16 * 16 or 16
    assert after[:stays] == before[:stays]
    assert list(islice(steps(grown, position), 80)) == after[done : done + 80]
    old, new, epoch = visits_of(before), visits_of(after), STATES[0] - 1
    first = now["epoch"] * epoch  # one sample of each epoch is held out
    for number, sample in new.items():
        assert (sample == old.get(number, sample)) if number < first else True
    # Whole epochs: the first has all samples but the two that are held out.
    seen = [new[n] for n in range(first, first + STATES[1] - 2) if n in new]
    assert len(set(seen)) == len(seen) > 300 and max(seen) == STATES[1] - 3


def test_the_next_resumes_keep_the_epoch_and_a_second_addition_has_another(
    states, resume
):
    *_, (early, _) = islice(steps(states[0]), 20)
    *_, (late, _) = islice(steps(states[0]), 190)
    assert resume(states[0], early)[2].keys().isdisjoint([EPOCHS])
    _, _, record = resume(states[1], early)
    for position in (early, late):
        _, words, again = resume(states[1], position)
        assert again == record and words == ""
    _, words, last = resume(states[2], late)
    assert last[EPOCHS][0][:2] == record[EPOCHS][0] and "35 new samples" in words
    epochs = [stage["epoch"] for stage in last[EPOCHS][0]]
    assert epochs == sorted(epochs) and epochs[2] > epochs[1] > 0
    assert [stage["samples"] for stage in last[EPOCHS][0]] == list(STATES)


def test_measurements_stay_those_of_the_first_samples(states, resume):
    resume(states[0], SCHEDULE_START)
    grown, _, _ = resume(states[1], SCHEDULE_START)
    training, held_out = split(grown, 0.0)
    assert held_out is not None and held_out.sources() == ["sample_1.mp4"]
    assert len(training) == STATES[1] - 2
    assert len(as_it_began(grown)) == STATES[0]
    assert as_it_began(states[0]) is states[0]


def test_one_of_several_datasets_grows(states, resume, tmp_path):
    other = open_dataset(write_dataset(tmp_path / "b", text_width=16))
    other.card["fingerprint"] = "g"

    def both(dataset):
        return mixed({dataset.path: (dataset, 0.8), other.path: (other, 0.2)})

    resume(both(states[0]), SCHEDULE_START)
    before = visits_of(islice(steps(both(states[0])), 16))
    grown, words, record = resume(both(states[1]), SCHEDULE_START)
    assert "data1: has 5 new samples" in words and str(other.path) not in words
    assert [len(own) for own in record[EPOCHS]] == [2, 1]
    after = visits_of(islice(steps(grown), 16))
    moved = {n: s if s < STATES[0] - 1 else s - 4 for n, s in after.items()}
    assert moved == before  # the other dataset's samples have other numbers


def test_a_dataset_that_changed_in_another_way_is_refused(states, resume):
    _, _, begun = resume(states[1], SCHEDULE_START)
    made, words, record = resume(states[0], SCHEDULE_START)
    assert words == "" and made is states[0]
    assert "on another dataset than this --data" in (other_data(begun, record) or "")


def test_a_grown_dataset_is_no_other(states, resume):
    _, _, begun = resume(states[0], SCHEDULE_START)
    _, _, record = resume(states[1], SCHEDULE_START)
    assert other_data(begun, record) is None and other_data(record, record) is None


def give_vae(data, vae):
    """Makes a VAE that of a dataset."""
    shutil.copytree(vae, data / "vae")
    file = data / records.CARD
    card = json.loads(file.read_text()) | {"vae_sha256": sha256_of_folder(vae)}
    file.write_text(json.dumps(card))


@pytest.mark.slow
def test_a_training_goes_on_with_what_was_added(tmp_path, monkeypatch, capsys):
    """Stopped or not, the steps are the same; a step is the sum of its latents."""

    def step(state, batch, **_):
        loss = batch.latents.sum()
        metrics = {"loss": loss, "tokens": loss, "skipped_in_a_row": state.skipped}
        return state._replace(step=state.step + 1), metrics

    monkeypatch.setattr("soraxla.training.dit_experiment.dit_step", step)
    data, loaded = state(tmp_path / "data", 0), tiny.loaded_vae()
    save_folder(tmp_path / "vae", loaded.params, loaded.config)
    give_vae(data, tmp_path / "vae")

    def train(name, last):
        config = {**CONFIG, "loop": {**CONFIG["loop"], "steps": last}}
        folder, mesh = tmp_path / name, one_device()
        run = run_training(config, data=data, workdir=folder, mesh=mesh)
        return run.metrics()["loss"].tolist()

    whole = train("never", 60)
    train("one", 20)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(data)
    give_vae(state(data, 1), tmp_path / "vae")
    capsys.readouterr()
    one = train("one", 60)
    assert "has 5 new samples, which are visited from epoch" in capsys.readouterr().out
    train("two", 41)
    assert train("two", 60) == one
    assert one[:32] == whole[:32]
    shutil.rmtree(data)
    give_vae(state(data, 0), tmp_path / "vae")
    with pytest.raises(UserError, match="was trained on another dataset"):
        train("one", 70)
