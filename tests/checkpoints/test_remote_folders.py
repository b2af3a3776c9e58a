"""Model folders and training folders in a bucket."""

import json

import numpy as np
import pytest

from soraxla.checkpoints.load import load_dit, load_vae, vae_as_folder, within_reach
from soraxla.checkpoints.model_folder import save_folder, sha256_of_folder
from soraxla.checkpoints.training_folder import checkpoints_of, read_settings
from soraxla.core.errors import UserError
from soraxla.core.paths import place
from soraxla.core.remote import upload
from soraxla.files.atomic_folder import atomic_folder
from soraxla.generation.defaults import find_folder
from tests import tiny
from tests.checkpoints.test_model_folder import assert_same


def saved(folder):
    vae = tiny.loaded_vae()
    save_folder(folder, vae.params, vae.config)
    return folder


@pytest.mark.slow
def test_a_model_folder_is_the_same_in_a_bucket(store, tmp_path):
    local, remote = saved(tmp_path / "vae"), saved(place("gs://bucket/model/vae"))
    assert store.written[-1] == "bucket/model/vae/config.json"
    assert_same(load_vae(remote).params, tiny.vae_params())
    with vae_as_folder(remote) as (folder, sha256):
        assert sha256 == sha256_of_folder(local) == sha256_of_folder(folder)
    with pytest.raises(UserError, match="gs://bucket/model/vae: exists"):
        saved(remote)


@pytest.mark.parametrize("name", ["stem.safetensors", "config.json"])
def test_an_interrupted_upload_leaves_nothing(store, name):
    store.fails_at = name
    folder = place("gs://bucket/vae")
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as partial:
        (partial / "stem.safetensors").write_bytes(b"x")
        (partial / "config.json").write_bytes(b"{}")
    assert not store.objects
    store.fails_at = None
    with pytest.raises(ZeroDivisionError), atomic_folder(folder) as partial:
        (partial / "config.json").write_bytes(b"{}")
        raise ZeroDivisionError
    assert not store.objects


def test_a_training_folder_is_read_in_its_bucket(store):
    run = place("gs://bucket/run")
    (run / "train.json").write_text(json.dumps({"kind": "vae"}))
    (run / "previews" / "step_1.png").write_bytes(b"x")
    reads = store.calls["read"]
    assert within_reach(run) is run and find_folder("gs://bucket/run") == run
    assert read_settings(run) == {"kind": "vae"}
    assert str(checkpoints_of(run)) == "gs://bucket/run/checkpoints"
    assert store.calls["read"] == reads + 4  # `train.json`, never the previews
    with pytest.raises(UserError, match="s3://b/run: training folders are local or in"):
        checkpoints_of(place("s3://b/run"))


def test_a_missing_folder_is_one_line(store):
    for address in ("gs://bucket/no", "gs://no/run"):
        with pytest.raises(UserError, match=f"^{address}: no such folder; give"):
            find_folder(address)


@pytest.mark.slow
def test_a_training_is_exported_from_bucket_to_bucket(store, tmp_path, monkeypatch):
    from soraxla.cli.main import main
    from soraxla.models.dit.config import DiTConfig
    from soraxla.training.dit_step import DiTStepConfig, dit_init
    from tests.checkpoints.test_training_folder import trained
    from tests.fake_store_http import served

    model = DiTConfig(layers=2, width=12, heads=2, mlp_width=8, text_width=8)
    state = trained(tmp_path / "run", "dit", DiTStepConfig(model=model), dit_init)
    saved(tmp_path / "run" / "vae")
    upload(tmp_path / "run", place("gs://bucket/run"))
    for name in [n for n in store.objects if "/commit" in n or "/checksums/" in n]:
        del store.objects[name]
    # Orbax writes these at the end of a checkpoint in a bucket.
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    for folder in ("", "state/", "plan/"):
        name = f"bucket/run/checkpoints/{step.name}/{folder}commit_success.txt"
        store.objects[name] = b"x"
    with served(store, monkeypatch):
        words = ["--checkpoint", "gs://bucket/run", "--out", "gs://bucket/model"]
        assert main(["export", *words]) == 0
    assert_same(load_dit(place("gs://bucket/model/dit")).params, state.ema)
    assert store.written[-1] == "bucket/model/dit/config.json"
    np.testing.assert_array_equal(
        sorted(n for n in store.objects if n.startswith("bucket/model/vae/")),
        [
            f"bucket/model/vae/{p.name}"
            for p in sorted((tmp_path / "run/vae").iterdir())
        ],
    )
