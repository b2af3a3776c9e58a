"""Presets and configuration files: a name or a path, and one line for a mistake."""

import pytest
from ml_collections import ConfigDict

from soraxla.core.config import build, set_from_text
from soraxla.core.errors import UserError
from soraxla.evals.val_loss import ValLoss
from soraxla.training.experiment import DiTTrainingConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.presets import (
    KINDS,
    changes,
    load_preset,
    preset_names,
    presets_folder,
    split,
)


def test_the_presets_are_these():
    assert preset_names() == [
        *("captioner", "dit", "finetune_wan", "scaling", "vae", "worlds")
    ]


@pytest.mark.parametrize("spec", ["dit:debug", "vae:debug", "worlds:forecast"])
def test_a_preset_builds(spec):
    config = load_preset(spec)
    assert isinstance(config, ConfigDict)
    kind, settings = split(config)
    assert isinstance(build(KINDS[kind], settings), KINDS[kind])
    assert config.preset == spec and changes(config) == []


def test_a_name_and_a_path_load_the_same():
    named, path = load_preset("dit:s"), presets_folder() / "dit.py"
    assert split(load_preset(f"{path}:s")) == split(named)
    assert split(load_preset("dit:xs")) == split(load_preset("dit")) != split(named)


def test_overrides_are_set_and_checked():
    config = load_preset("dit:s", {"step.lora.rank": 4, "batch_rows": 16})
    assert (config.step.lora.rank, config.batch_rows) == (4, 16)
    assert build(DiTTrainingConfig, split(config)[1]).step.lora.rank == 4
    assert "batch_rows = 16 (preset: 8)" in changes(config)
    assert "step.lora.rank = 4 (preset: None)" in changes(config)
    config.preset = "gone.py"
    assert changes(config) == []
    with pytest.raises(UserError, match=r"did you mean 'step\.optim\.learning_rate'\?"):
        load_preset("dit:s", {"learning_rate": 3e-4})
    with pytest.raises(UserError, match="'batch_rows' is '8', expected int"):
        load_preset("dit:s", {"batch_rows": "8"})


def test_evaluators_are_set_by_dotted_keys():
    changed = {
        "eval_share": 0.1,
        "loop.evaluators.val_loss.every": 500,
        "loop.evaluators.preview": None,
    }
    _, settings = split(load_preset("dit:debug", changed))
    loop = build(DiTTrainingConfig, settings).loop
    assert loop.due(500) == {"val_loss": ValLoss(every=500)}
    assert load_preset("dit:debug").loop.evaluators.preview.every == 250


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loop.evaluators.val_los.every=3", "did you mean 'val_loss'? Known: preview,"),
        (
            "loop.evaluators.val_loss.evry=3",
            "did you mean 'loop.evaluators.val_loss.every'?",
        ),
        ("loop.evaluators.val_loss.every=often", "is 'often', expected int"),
    ],
)
def test_keys_and_types_of_evaluators_are_checked_when_set(assignment, message):
    config = load_preset("dit:debug")
    before = config.to_dict()
    with pytest.raises(UserError) as error:
        set_from_text(config, DiTTrainingConfig, assignment)
    assert message in str(error.value) and config.to_dict() == before


@pytest.mark.parametrize("every", [20, 0])
def test_a_file_with_the_old_name_of_a_setting_loads(tmp_path, every):
    path = tmp_path / "old.py"
    path.write_text(
        DICT
        + PRESET
        + "def get_config():\n"
        + "    made = load_preset('dit:debug').to_dict()\n"
        + f"    loop = {{'steps': 40, 'preview_every': {every}}}\n"
        + "    return ConfigDict({**made, 'loop': loop})\n"
    )
    config = load_preset(str(path))
    assert "preview_every" not in config.loop
    loop = build(LoopConfig, config.loop.to_dict())
    assert list(loop.due(40)) == (["preview"] if every else [])


SIZE = "from soraxla.models.dit.config import dit_config\n"
PRESET = "from soraxla.training.presets import load_preset\n"
DICT = "from ml_collections import ConfigDict\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nx = y\n", "mine.py:2: NameError: name 'y' is not defined"),
        ("def get_config(:\n", "mine.py:1: SyntaxError: invalid syntax"),
        ("\n\nimport no_such_module\n", "mine.py:3: ModuleNotFoundError: No module"),
        (
            "def get_config():\n    return 1 + 'a'\n",
            "mine.py:2: TypeError: unsupported operand",
        ),
        (
            SIZE + "def get_config():\n    return dit_config('xs', heads=7)\n",
            "mine.py:3: DiT width 256 with 7 heads",
        ),
        (
            SIZE + "def get_config():\n    return dit_config('xs', hedas=7)\n",
            "mine.py:3: unknown DiT setting 'hedas': did you mean 'heads'?",
        ),
        ("x = 1\n", "mine.py: has no get_config()"),
        ("get_config = 1\n", "mine.py: has no get_config()"),
        (
            "def get_config():\n    return {}\n",
            "mine.py:1: get_config returns dict, expected ConfigDict",
        ),
        ("\xff", "mine.py:1: SyntaxError"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_number(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        load_preset(str(file))
    line = str(error.value)
    assert line.startswith(str(tmp_path)) and "\n" not in line
    assert message in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "c.step.optim.lerning_rate = 1",
            "mine.py:5: unknown setting 'lerning_rate': did you mean "
            "'step.optim.learning_rate'?",
        ),
        (
            "c.learning_rate = 1",
            "mine.py:5: unknown setting 'learning_rate': did you mean "
            "'step.optim.learning_rate'?",
        ),
        ("c['lop'] = 1", "mine.py:5: unknown setting 'lop': did you mean 'loop'?"),
        ("c.update(zzz=1)", "mine.py:5: unknown setting 'zzz'"),
        (
            "c.loop.preview_every = 9",
            "mine.py:5: setting 'loop.preview_every' is called "
            "'loop.evaluators.preview.every' now",
        ),
        ("c.loop.steps = 'a'", "mine.py:5: TypeError: Could not override field"),
        ("c.loop.steps = 0", "mine.py:2: loop.steps is 0, expected at least 1"),
        (
            "c.loop.evaluators.val_los = {'every': 3}",
            "mine.py:2: unknown evaluator 'loop.evaluators.val_los': did you mean",
        ),
        (
            "c.step.lora = {'rnk': 3}; c.step.model.layers = 0",
            None,  # the folder of --init says the rest
        ),
        ("c.loop.evaluators.val_loss = {'every': 3}; c.eval_share = 0.1", None),
    ],
)
def test_a_wrong_setting_in_a_file_is_one_line_with_its_number(
    tmp_path, change, message
):
    """The line that sets a wrong key; `get_config`'s of a value that is found later."""
    file = tmp_path / "mine.py"
    start = f"def get_config():\n\n    c = load_preset('dit:debug')\n    {change}\n"
    file.write_text(f"{PRESET}{start}    return c\n")
    if message is None:
        load_preset(str(file))
        return
    with pytest.raises(UserError) as error:
        load_preset(str(file))
    line = str(error.value)
    assert line.startswith(str(tmp_path)) and "\n" not in line
    assert message in line and "Other fields" not in line


def test_a_preset_refuses_unknown_keys_after_an_override():
    """Keys of a mapping stay free, and those that a fine-tuning leaves out."""
    config = load_preset("dit:debug", {"loop.steps": 3, "step.lora.rank": 2})
    for group in (config, config.loop, config.step.optim, config.step.lora):
        with pytest.raises((AttributeError, KeyError), match="locked"):
            group["stpes"] = 1
    config.loop.evaluators.val_loss = {"every": 3}
    tuned = load_preset("finetune_wan:lora", {"loop.steps": 3})
    tuned.step.model.dtype = "float32"
    with pytest.raises(AttributeError, match="locked"):
        tuned.step.optim.lerning_rate = 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dot:s", "unknown preset 'dot': did you mean 'dit'?"),
        ("dit:huge", "unknown DiT size 'huge'"),
        (
            "none/mine.py:s",
            "none/mine.py: no such configuration; presets are captioner, ",
        ),
        ("configs/dit:s", "not a Python file"),
        ("{}/mine.py:s", "takes no argument, remove ':s'"),
        ("{}/mine.py", "kind is 'gan', expected one of 'dit', 'vae', 'captioner'"),
    ],
)
def test_a_wrong_spec_is_one_line(tmp_path, spec, message):
    text = DICT + "def get_config():\n    return ConfigDict({'kind': 'gan'})\n"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as error:
        load_preset(spec.format(tmp_path), {"loop.steps": 1})
    assert message in str(error.value)


MADE = "from configs.vae import get_config as made\n\ndef get_config():\n"
MADE += "    c = made('debug')\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a", f"{MADE}    c.loop.steps = stepz\n    return c\n", ":5: NameError: "),
        ("a", f"{MADE}    c.loop.steps = 3 + '4'\n    return c\n", ":5: TypeError: "),
        ("a", f"{MADE}    x = {{}}['steps']\n    return c\n", ":5: KeyError: 'steps'"),
        ("a", "x = 1 / 0\n", ":1: ZeroDivisionError: "),
        ("a", f"{MADE}    c.loop.stepz.x = 3\n    return c\n", ":5: "),
        ("a", f"{MADE}    c.loop['stepz'] = 3\n    return c\n", ":5: unknown setting"),
        ("a", f"{MADE}    c.loop.steps = 'many'\n    return c\n", "a.py:"),
        ("a", "def get_config():\n    return {}\n", ":1: get_config returns dict, ex"),
        ("a", "x = 1\n", r"has no get_config\(\)"),
        ("a", "raise SystemExit('not today')\n", ":1: SystemExit: not today"),
        ("a", "def f(:\n", ":1: SyntaxError: "),
        ("not a name", "def get_config(x):\n    raise ValueError(x)\n", ":2: ValueErr"),
    ],
)
def test_a_slip_in_a_configuration_of_ones_own_is_one_line(
    tmp_path, name, text, message
):
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    spec = str(file) if name == "a" else f"{file}:debug"
    with pytest.raises(UserError, match=message) as error:
        load_preset(spec)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_a_configuration_that_is_no_python_file(tmp_path):
    with pytest.raises(UserError, match="not a Python file"):
        load_preset(f"{tmp_path}/notes.txt")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("loop.steps=many", "'loop.steps' is 'many', expected int"),
        ("loop.steps=-1", "loop.steps is -1, expected at least 1"),
        ("loop=3", "'loop' is 3"),
        ("step.optim.learning_rate=1e-3x", "is '1e-3x', expected float"),
    ],
)
def test_a_slip_in_an_assignment_is_one_line(assignment, message):
    config = load_preset("vae:debug")
    with pytest.raises(UserError, match=message) as error:
        set_from_text(config, KINDS["vae"], assignment)
        build(KINDS["vae"], split(config)[1])
    assert "\n" not in str(error.value)
