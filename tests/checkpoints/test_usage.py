"""The lengths, tasks and defaults of a model's folder, through training and export."""

import dataclasses
import json

import pytest

from data_pipelines.dataset import open_dataset
from soraxla.checkpoints.load import read_transformer
from soraxla.checkpoints.model_folder import LoadedModel, save_folder
from soraxla.checkpoints.training_folder import SETTINGS, trained_config
from soraxla.checkpoints.usage import GenerationDefaults, trained_usage, usage_of
from soraxla.checkpoints.wan.convert import import_wan
from soraxla.core.config import build, to_dict
from soraxla.core.errors import UserError
from soraxla.generation.defaults import MEDIAN, model_defaults, read_usage
from soraxla.models.dit.config import dit_config
from soraxla.packing.conditioning import EVERY_TASK, ConditioningMixture, trained_tasks
from soraxla.training.dit_experiment import _settings
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.finetune import Start
from soraxla.training.presets import load_preset, split
from soraxla.training.record import check_record
from tests import tiny
from tests.data_pipelines.datasets import write_dataset
from tests.golden.wan import write_transformer

WAN = dit_config("wan_1_3b")
SHORT = GenerationDefaults(fps=30.0, width=64, height=48, frames=9)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two clips of 3 latent frames, one of 2 and a picture."""
    grids = [(3, 4, 8), (3, 4, 8), (2, 4, 4), (1, 4, 4)]
    folder = tmp_path_factory.mktemp("data") / "dataset"
    return open_dataset(write_dataset(folder, grids, fps=12.0))


def recorded(dataset, config, model=tiny.DIT):
    """`train.json` of a fine-tuning from a folder of this `config.json`."""
    start = None
    if config is not None:
        loaded = LoadedModel(params={}, model=model, config=config)
        start = Start(folder=dataset.path, dit=loaded)
    _, settings = split(load_preset("dit:debug"))
    settings["pack"]["mixture"] = to_dict(ConditioningMixture(none=0.5, prefix=0.5))
    return _settings(build(DiTTrainingConfig, settings), dataset, start, 1.0)


@pytest.mark.parametrize(("limit", "expected"), [(None, None), (2, 3), (21, 21)])
def test_a_training_on_short_clips_never_lowers_the_limit(dataset, limit, expected):
    base = {"max_latent_frames": limit, "trained_tasks": ["text", "last_frame"]}
    base["generation_defaults"] = {"fps": 16.0, "frames": 81}
    found = recorded(dataset, base)
    assert found["max_latent_frames"] == expected
    assert found["trained_tasks"] == ["text", "last_frame", "extend_forward", "edit"]
    assert found["generation_defaults"] == {"fps": 16.0, "frames": 81}
    sizes = {"fps": 12.0, "width": 64, "height": 32, "frames": 9}
    assert found["training_median"] == sizes


def test_wan_stays_without_a_limit_and_keeps_its_defaults(dataset):
    """Also from a folder of an old version, which recorded the clips of a LoRA."""
    for old in ({}, {"max_latent_frames": 1}):
        found = recorded(dataset, old, WAN)
        assert found["max_latent_frames"] is None
        assert found["generation_defaults"]["fps"] == 16.0
        assert found["generation_defaults"]["frames"] == 81


def test_a_model_from_nothing_has_the_lengths_and_sizes_of_its_data(dataset):
    found = recorded(dataset, None)
    assert found["max_latent_frames"] == 3 and found["generation_defaults"] == {}
    defaults = model_defaults(usage_of(found, WAN))  # Wan's layout, not Wan's weights
    assert (defaults.width, defaults.height, defaults.frames) == (64, 32, 9)
    assert defaults.fps == 12.0 and set(defaults.origins.values()) == {MEDIAN}


def test_the_record_is_kept_by_export_and_read_without_the_weights(dataset, tmp_path):
    """The folder of a training, and the model folder that it is exported to."""
    settings = recorded(dataset, {}, WAN)
    run = tmp_path / "run"
    run.mkdir()
    (run / SETTINGS).write_text(json.dumps(settings))
    usage = read_usage(run)
    assert usage.max_latent_frames is None
    assert usage.trained_tasks == ("text", "edit", "extend_forward")
    config = trained_config(settings, None)
    save_folder(tmp_path / "exported" / "dit", {}, config)
    assert read_usage(tmp_path / "exported") == usage
    # A resume by a version that records more goes on.
    newer = settings | {"max_latent_frames": 9, "training_median": {}}
    check_record(run, newer, DiTTrainingConfig)


def test_an_old_training_folder_has_the_tasks_of_its_mixture(dataset):
    settings = recorded(dataset, None)
    for name in ("trained_tasks", "generation_defaults", "training_median"):
        del settings[name]
    usage = usage_of(trained_config(settings, None), WAN)
    assert usage.trained_tasks == ("text", "extend_forward", "edit")
    assert usage.max_latent_frames == 3
    # Adapters add to what their base has, which old folders do not record.
    settings["init"] = {"folder": "base", "sha256": ""}
    base = usage_of({}, WAN)
    usage = usage_of(trained_config(settings, base), WAN)
    assert usage.max_latent_frames is None
    assert usage.generation_defaults.frames == 81


def test_a_folder_without_a_record_is_wan_s_or_unknown():
    wan, other = usage_of({}, WAN), usage_of({"max_latent_frames": 4}, tiny.DIT)
    assert wan.trained_tasks == ("text", "edit") and wan.max_latent_frames is None
    assert "first_frame" in (usage_of({}, dit_config("wan_5b")).trained_tasks or ())
    assert other.trained_tasks is None and other.max_latent_frames == 4
    for base in (other, usage_of({}, tiny.DIT)):
        found = trained_usage(base, longest=9, tasks=["text"], median=SHORT)
        assert found.trained_tasks is None
    with pytest.raises(UserError, match="max_latent_frames is 0, expected"):
        usage_of({"max_latent_frames": 0}, WAN)
    with pytest.raises(UserError, match=r"generation_defaults.fsp"):
        usage_of({"generation_defaults": {"fsp": 1}}, WAN)


def test_an_import_writes_the_family_s_defaults(tmp_path):
    write_transformer(tmp_path / "theirs")
    import_wan([tmp_path / "theirs"], tmp_path / "wan", text_encoder="hashed:8")
    _, config = read_transformer(tmp_path / "wan")
    assert config["generation_defaults"]["fps"] == 16.0
    assert config["generation_defaults"]["width"] == 832
    assert config["trained_tasks"] == ["text", "edit"]
    assert config["max_latent_frames"] is None


def test_the_order_is_the_folder_then_the_training_data_then_none():
    usage = usage_of({"generation_defaults": {"fps": 16.0, "steps": 9}}, tiny.DIT)
    defaults = model_defaults(dataclasses.replace(usage, training_median=SHORT))
    assert (defaults.fps, defaults.width, defaults.frames) == (16.0, 64, 9)
    assert defaults.sampling == {"steps": 9} and defaults.origins["frames"] == MEDIAN
    assert model_defaults(usage).frames == 1


def test_a_mixture_teaches_the_tasks_that_its_shares_name():
    assert trained_tasks(ConditioningMixture(), 0.0) == ("text", "edit")
    assert "extend_forward" in trained_tasks(ConditioningMixture(), 0.5)
    assert len(trained_tasks(EVERY_TASK, 0.0)) == 11


def test_the_words_of_the_captions_are_recorded_for_the_hashed_encoder(
    dataset, monkeypatch
):
    captions = dataset.index.column("caption").to_pylist()
    words = sorted({word for caption in captions for word in caption.lower().split()})
    assert words and recorded(dataset, None)["trained_words"] == words
    base = {"trained_tasks": ["text"], "trained_words": ["zebra"]}
    assert recorded(dataset, base)["trained_words"] == [*words, "zebra"]
    # The base's words are not known.
    assert "trained_words" not in recorded(dataset, {"trained_tasks": ["text"]})
    monkeypatch.setattr("soraxla.training.dit_experiment._MOST_WORDS", len(words) - 1)
    assert "trained_words" not in recorded(dataset, None)
    monkeypatch.setitem(dataset.card, "text_encoder", "umt5:/x")
    monkeypatch.setattr("soraxla.training.dit_experiment._MOST_WORDS", len(words))
    assert "trained_words" not in recorded(dataset, None)
