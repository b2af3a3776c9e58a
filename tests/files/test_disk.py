"""Writes: permissions of new files, and a full disk as one line that names the file."""

import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file

from soraxla.checkpoints.model_folder import sha256_of_folder
from soraxla.core.errors import UserError
from soraxla.files.atomic_file import atomic_file
from soraxla.files.atomic_folder import atomic_folder
from soraxla.files.disk import copy_tree, save_tensors
from tests.full_disk import no_file_above

TENSORS = {"x": np.arange(1000, dtype=np.float32)}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_tensor_files_have_the_permissions_of_new_files(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_tensors(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode)
    assert mode == 0o666 & ~mask
    np.testing.assert_array_equal(
        load_file(tmp_path / "x.safetensors")["x"], TENSORS["x"]
    )


def test_a_full_disk_is_named_by_every_writer(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(bytes(4000))
    with no_file_above(1000):
        with pytest.raises(UserError, match=r"x\.safetensors: cannot be written \(.*"):
            save_tensors(TENSORS, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match=r"copy/big: cannot be written \(.*"):
            copy_tree(source, tmp_path / "copy")
        with pytest.raises(OSError) as error, atomic_file(tmp_path / "a") as partial:
            partial.write_bytes(bytes(4000))
        assert error.value.filename == str(tmp_path / "a")
        with pytest.raises(OSError) as error, atomic_folder(tmp_path / "f") as partial:
            (partial / "a").write_bytes(bytes(4000))
        assert error.value.filename == str(tmp_path / "f")
    assert not (tmp_path / "a").exists() and not (tmp_path / "f").exists()


def test_what_macos_leaves_is_neither_copied_nor_hashed(tmp_path):
    folder = tmp_path / "vae"
    folder.mkdir()
    save_tensors(TENSORS, folder / "encoder.safetensors")
    (folder / "config.json").write_text("{}")
    clean = sha256_of_folder(folder)
    for name in ("encoder.safetensors", "config.json"):
        (folder / f"._{name}").write_bytes(b"\0\5\26\7")
    assert sha256_of_folder(folder) == clean
    copy_tree(folder, tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"encoder.safetensors", "config.json"}
