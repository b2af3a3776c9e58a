"""Checkpoints whose bytes have changed are refused, wherever the bit is."""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraxla.checkpoints.training_folder import CHECKPOINTS, verify_newest
from soraxla.cli.main import main
from soraxla.core.errors import UserError
from soraxla.files.checksums import CHECKSUMS, verify
from soraxla.training.saving import Checkpoints

STATE = {"a": jnp.arange(3000.0), "b": {"c": jnp.ones((5, 7), jnp.bfloat16)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A training folder of four checkpoints, of which two are kept."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, STATE, {"step": step})
    checkpoints.close()
    return folder


def restored(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(jax.eval_shape(lambda: STATE))
    finally:
        checkpoints.close()


def test_whole_checkpoints_have_checksums_and_load(folder):
    names = {path.name for path in (folder / CHECKSUMS).iterdir()}
    assert names == {"3.0.json", "4.0.json"}
    state, position = restored(folder)
    assert position == {"step": 4}
    np.testing.assert_array_equal(state["a"], STATE["a"])


def test_a_checkpoint_does_not_wait_for_the_next_to_have_checksums(tmp_path):
    """A killed training's newest checkpoint is verified as well."""
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, STATE, {"step": 1})
        deadline = time.monotonic() + 10
        while not (tmp_path / CHECKSUMS / "1.0.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_flipped_bit_is_found_wherever_it_is(folder, capsys):
    (folder / "train.json").write_text('{"kind": "vae"}')
    newest = folder / CHECKPOINTS / "4"
    files = [path for path in newest.rglob("*") if path.is_file()]
    files = [path for path in files if path.stat().st_size and path.parent != newest]
    rng, flipped = np.random.default_rng(0), 0
    for path in files:
        whole = path.read_bytes()
        if path.name == "commit_success.txt":
            continue
        for place in rng.integers(0, len(whole), 8):
            data = bytearray(whole)
            data[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            with pytest.raises(UserError, match=f"of .*{path.name} are not those that"):
                verify(newest, folder / CHECKSUMS)
            flipped += 1
        if path.parent.name == "d":
            for read in (restored, verify_newest):
                with pytest.raises(UserError, match=r"4: cannot be restored, .* damag"):
                    read(folder)
            words = ["export", "--checkpoint", folder, "--out", folder / "out"]
            assert main([*map(str, words)]) == 2
            assert "cannot be restored, it is damaged" in capsys.readouterr().err
        path.write_bytes(whole)
    assert flipped >= 40
    verify(newest, folder / CHECKSUMS)


def test_a_checkpoint_without_checksums_loads(folder):
    for path in (folder / CHECKSUMS).iterdir():
        path.unlink()
    assert restored(folder)[1] == {"step": 4}
    assert (folder / CHECKSUMS / "4.0.json").exists()  # a run that goes on writes them
