"""Settings from nested mappings: what is wrong is named, what is right comes back."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict

from data_pipelines.vae_windows import WindowConfig, WindowShape
from soraxla.core.config import (
    CLASSES,
    RENAMED,
    build,
    leaves,
    nearest,
    set_from_text,
    set_key,
    to_config_dict,
    to_dict,
)
from soraxla.core.errors import UserError
from soraxla.core.older_settings import upgraded
from soraxla.diffusion.process import Process
from soraxla.models.dit.config import dit_config
from soraxla.models.vae.model import VAEConfig
from soraxla.packing.pack import PackConfig
from soraxla.training.dit_step import DiTStepConfig
from soraxla.training.loop import LoopConfig
from soraxla.training.optim import OptimConfig
from soraxla.training.vae_step import VAEStepConfig


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


@pytest.mark.parametrize("patch", [None, 4])
def test_a_new_setting_at_its_default_leaves_a_file_as_it_was(patch):
    """The hash of a VAE's folder, which datasets hold, depends on its bytes."""
    model = VAEConfig(
        frame_patch=patch, multipliers=(1, 1, 2), temporal_down=(False,) * 2
    )
    made = to_dict(VAEStepConfig(model=model))
    assert made["model"].get("frame_patch", "left out") == (patch or "left out")
    assert build(VAEStepConfig, made).model == model
    settable = to_config_dict("vae", VAEStepConfig(model=model))
    assert settable.model.frame_patch == patch


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
        ({"inner": {"dept": 1}}, r"'inner\.dept': did you mean 'inner\.depth'\?"),
        ({"depth": 1}, r"'depth': did you mean 'inner\.depth'\?"),
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


# --- Dotted keys ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Look:
    every: int = 100
    name: str = "look"


@dataclass(frozen=True, kw_only=True)
class Whole:
    outer: Outer
    maybe: Inner | None = None
    look: Look | None = None
    looks: Mapping[str, Look | None] = field(default_factory=lambda: {"a": Look()})
    anything: dict[str, Any] = field(default_factory=dict)
    table: dict[str, Any] = field(
        default_factory=dict, metadata={CLASSES: {"look": Look, "inner": Inner}}
    )


def whole(**changes):
    return to_config_dict("toy", Whole(outer=Outer(inner=Inner(depth=3)), **changes))


def built(config):
    settings = config.to_dict()
    assert settings.pop("kind") == "toy"
    return build(Whole, json.loads(json.dumps(settings)))


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("outer.rate", 2, lambda w: w.outer.rate),
        ("outer.rate", math.inf, lambda w: w.outer.rate),
        ("outer.shift", 3.5, lambda w: w.outer.shift),  # "auto" before
        ("outer.limit", 5, lambda w: w.outer.limit),  # None before
        ("outer.pair", (3, 4.0), lambda w: w.outer.pair),
        ("outer.inner.depth", 9, lambda w: w.outer.inner.depth),
        ("look.every", 7, lambda w: w.look.every),  # the group was None
        ("look", {"every": 7}, lambda w: to_dict(w.look) and {"every": w.look.every}),
        ("looks.a.every", 7, lambda w: w.looks["a"].every),
        ("looks.a", None, lambda w: w.looks["a"]),
        ("looks.new.every", 7, lambda w: w.looks["new"].every),
        ("anything.val_loss.every", 500, lambda w: w.anything["val_loss"]["every"]),
        ("table.look.every", 7, lambda w: w.table["look"]["every"]),
        ("table.inner", None, lambda w: w.table["inner"]),
        ("table", {"inner": {"depth": 2}}, lambda w: w.table),
        ("outer.made", [1, 2], lambda w: w.outer.made),
        ("look", {}, lambda w: {} if w.look == Look() else None),
        ("outer.inner", Inner(depth=4), lambda w: w.outer.inner),
    ],
)
def test_a_key_sets_one_setting(key, value, found):
    config = whole()
    before = config.copy_and_resolve_references()
    set_key(config, Whole, key, value)
    assert found(built(config)) == value
    assert config != before
    assert config.outer.kind == "a" and config.looks.a != {}


def test_a_group_that_was_none_has_the_defaults():
    config = whole()
    set_key(config, Whole, "look.every", 7)
    assert config.look.to_dict() == {"every": 7, "name": "look"}
    set_key(config, Whole, "look", None)
    assert built(config).look is None
    set_key(config, Whole, "maybe.name", "x")  # its depth has no default
    with pytest.raises(UserError, match=r"'maybe\.depth' is missing"):
        built(config)


def test_a_mapping_sets_its_keys_and_leaves_the_rest():
    config = whole()
    set_key(config, Whole, "outer", {"rate": 0.25, "inner": {"name": "y"}})
    assert built(config).outer == Outer(inner=Inner(depth=3, name="y"), rate=0.25)


def test_a_group_that_is_not_there_gets_only_the_key():
    """A model folder says the rest of it, as for a fine-tuning."""
    config = ConfigDict({"kind": "toy", "outer": {}})
    set_key(config, Whole, "outer.inner.depth", 2)
    set_key(config, Whole, "looks.b.every", 3)
    assert config.outer.to_dict() == {"inner": {"depth": 2}}
    assert built(config).looks == {"a": Look(), "b": Look(every=3)}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("depth", 1, r"'depth': did you mean '(outer\.inner|maybe)\.depth'\?"),
        ("outer.rat", 1, r"'outer\.rat': did you mean 'outer\.rate'\?"),
        ("outr.rate", 1, r"'outr\.rate': did you mean 'outer\.rate'\?"),
        ("outer.rate.most", 1, r"unknown setting 'outer\.rate\.most'"),
        ("look.evry", 1, r"'look\.evry': did you mean 'look\.every'\?"),
        ("looks.a.evry", 1, r"'looks\.a\.evry': did you mean 'look\.every'\?"),
        (
            "outer",
            {"rate": 1.0, "rat": 1},
            r"'outer\.rat': did you mean 'outer\.rate'\?",
        ),
        ("qqq", 1, "'qqq'; docs/configuration.md lists all"),
        ("outer.rate", "fast", r"'outer\.rate' is 'fast', expected float"),
        ("outer.rate", math.nan, r"'outer\.rate' is nan, expected a number"),
        ("outer.on", 1, r"'outer\.on' is 1, expected bool"),
        ("outer.inner", None, r"'outer\.inner' is None, expected a group"),
        ("looks.a", 3, r"'looks\.a' is 3, expected .*Look"),
        ("table.loook.every", 1, r"'table\.loook\.every': did you mean 'look'\?"),
        ("table.loook", None, r"'table\.loook': did you mean 'look'\?"),
        ("table.look.evry", 1, r"'table\.look\.evry': did you mean 'table\.look\."),
        ("table.look.every", "often", r"'table\.look\.every' is 'often', expected int"),
        ("table.look", 3, r"'table\.look' is 3, expected Look \| None"),
        ("table", 3, r"'table' is 3, expected a group of keys"),
        ("outer.inners", [{"dept": 1}], r"'outer\.inners\[0\]\.dept'"),
    ],
)
def test_a_wrong_key_changes_nothing_and_names_the_nearest_leaf(key, value, message):
    config = whole()
    before = config.to_dict()
    with pytest.raises(UserError, match=message) as error:
        set_key(config, Whole, key, value)
    assert "\n" not in str(error.value)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("assignment", "found"),
    [
        ("outer.rate=inf", math.inf),
        ("outer.rate = 1e-4", 1e-4),
        ("outer.shift=auto", "auto"),
        ("outer.pair=[3, 4]", (3, 4.0)),
        ("outer.limit=None", None),
    ],
)
def test_a_text_is_a_literal_or_a_word(assignment, found):
    config = whole()
    set_from_text(config, Whole, assignment)
    assert getattr(built(config).outer, assignment.split("=")[0].strip()[6:]) == found


def test_leaves_are_the_settings_that_hold_no_others():
    keys = [key for key, *_ in leaves(Whole)]
    assert {"outer.inner.depth", "maybe.depth", "look.every", "looks"} <= set(keys)
    assert {"table.look.every", "table.inner.depth"} <= set(keys)
    assert not {"outer", "outer.inner", "look"} & set(keys)


def test_a_renamed_setting_is_read_by_its_old_name(monkeypatch):
    old = {"kind": "vae", "step": {"optim": {"lr": 1.0, "b1": 0.9}, "lora": None}}
    assert upgraded(old) == old
    monkeypatch.setitem(RENAMED, "step.optim.lr", "optim.learning_rate")
    assert upgraded(old) == {
        "kind": "vae",
        "optim": {"learning_rate": 1.0},
        "step": {"optim": {"b1": 0.9}, "lora": None},
    }
    with pytest.raises(UserError, match=r"is called 'optim\.learning_rate' now"):
        set_key(whole(), Whole, "step.optim.lr", 1.0)
