"""A disk that fills up while a dataset is prepared, and then has room again."""

import numpy as np
import pytest
from PIL import Image

from soraxla.core.errors import UserError
from tests.data_pipelines.test_prepare import content, run
from tests.full_disk import no_file_above


@pytest.fixture
def noise(tmp_path):
    """Eight captioned pictures, whose records of a shard have some 25 kB."""
    folder, rng = tmp_path / "media", np.random.default_rng(0)
    folder.mkdir()
    for n in range(8):
        pixels = rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text("noise")
    return folder


@pytest.mark.parametrize("size", [200, 8000, 20000])
def test_prepare_names_the_file_and_goes_on_later(noise, tmp_path, size):
    """The list of shards is too large already, or a part, or a shard is."""
    expected = run(noise, tmp_path / "whole", shard_bytes=26_000)
    out = tmp_path / "out"
    with no_file_above(size), pytest.raises((UserError, OSError)) as error:
        run(noise, out, shard_bytes=26_000)
    named = getattr(error.value, "filename", None) or str(error.value)
    assert named.startswith(str(out)) and "\n" not in str(error.value)
    assert not (out / "dataset.json").exists()
    assert run(noise, out, shard_bytes=26_000) == expected
    assert content(out) == content(tmp_path / "whole")
