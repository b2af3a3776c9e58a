"""Settings from nested mappings: what is wrong is named, what is right comes back."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.core.config import build, nearest, to_dict
from soraxla.diffusion.process import Process
from soraxla.models.dit.config import dit_config
from soraxla.models.vae.model import VAEConfig
from soraxla.packing.pack import PackConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig
from soraxla.training.steps import DiTStepConfig, VAEStepConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int
    name: str = "inner"


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    rate: float = 0.5
    on: bool = False
    limit: int | None = None
    shift: float | Literal["auto"] = "auto"
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[bool, ...] = ()
    inners: tuple[Inner, ...] = ()
    made: list[int] = field(default_factory=list)


GOOD = {"inner": {"depth": 3}}


@pytest.mark.parametrize(
    "settings",
    [
        DiTStepConfig(
            model=dit_config("debug", shift=3.0),
            process=Process(schedule="ddpm_cosine", prediction="v"),
            optim=OptimConfig(decay_steps=2000),
        ),
        DiTStepConfig(model=dit_config("wan_1_3b")),
        VAEStepConfig(
            model=VAEConfig(
                base_width=4,
                latent_channels=2,
                latent_mean=(0.25, 1 / 3),
                latent_std=(1.0, 2.0),
            )
        ),
        PackConfig(row_length=64, text_length=32, max_segments=4),
        WindowConfig(
            shapes=(
                WindowShape(frames=1, height=16, width=16, batch=2, weight=0.1),
                WindowShape(frames=5, height=16, width=24, batch=1),
            )
        ),
        LoopConfig(steps=10),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_survive_json(settings):
    text = json.dumps(to_dict(settings))
    again = build(type(settings), json.loads(text))
    assert again == settings
    assert hash(again) == hash(settings)


def test_values_take_the_types_of_their_fields():
    built = build(
        Outer,
        {
            **GOOD,
            "rate": 2,
            "limit": 5,
            "shift": 3,
            "pair": [4, 5],
            "many": [True, False],
            "inners": [{"depth": 1}, Inner(depth=2)],
        },
    )
    assert built == Outer(
        inner=Inner(depth=3),
        rate=2.0,
        limit=5,
        shift=3.0,
        pair=(4, 5.0),
        many=(True, False),
        inners=(Inner(depth=1), Inner(depth=2)),
    )
    assert type(built.rate) is type(built.shift) is type(built.pair[1]) is float
    assert build(Outer, {**GOOD, "limit": None}).limit is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rat": 1.0}, r"unknown setting 'rat': did you mean 'rate'\?"),
        ({"inner": {"dept": 1}}, r"'inner\.dept': did you mean 'depth'\?"),
        ({"inner": {}}, r"'inner\.depth' is missing"),
        ({"inner": 3}, r"'inner' is 3, expected a group"),
        (
            {"inners": [{"depth": 1}, {"depth": "x"}]},
            r"'inners\[1\]\.depth' is 'x'.*int",
        ),
        ({"rate": "fast"}, r"'rate' is 'fast', expected float"),
        ({"rate": True}, r"'rate' is True, expected float"),
        ({"on": 1}, r"'on' is 1, expected bool"),
        ({"limit": 1.5}, r"'limit' is 1\.5, expected int \| None"),
        ({"pair": ["x", 1]}, r"'pair\[0\]' is 'x', expected int"),
        ({"limit": True}, r"'limit' is True, expected int \| None"),
        ({"shift": "manual"}, r"'shift' is 'manual', expected .*float.*auto"),
        ({"kind": "c"}, r"'kind' is 'c', expected one of 'a', 'b'"),
        ({"pair": [1]}, r"'pair' is \[1\], expected tuple\[int, float\]"),
        ({"pair": 3}, r"'pair' is 3, expected"),
        ({"many": [True, 1]}, r"'many\[1\]' is 1, expected bool"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        build(Outer, {**GOOD, **change})
    assert "\n" not in str(error.value)


def test_a_missing_setting_is_named():
    with pytest.raises(ValueError, match="'inner' is missing"):
        build(Outer, {})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            VAEStepConfig,
            {"model": {"dtype": "float16"}},
            r"'model\.dtype' is 'float16'",
        ),
        (DiTStepConfig, {"process": {}, "model": {"layers": 1}}, r"'model\.width'"),
        (PackConfig, {"row_lenght": 4}, r"'row_lenght': did you mean 'row_length'\?"),
        (LoopConfig, {"steps": 4, "checkpoint_evry": 2}, "'checkpoint_every'"),
    ],
)
def test_the_settings_of_the_house_are_checked(cls, values, message):
    with pytest.raises(ValueError, match=message):
        build(cls, values)


def test_nearest_names_what_there_is():
    assert nearest("heum", ["euler", "heun"]) == (
        ": did you mean 'heun'? Known: euler, heun"
    )
