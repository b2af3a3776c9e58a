"""A decode that finds no memory is a mistake of the user's, with the file."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_pipelines import SAMPLES
from data_pipelines.encode_part import Unreadable, read_pieces
from data_pipelines.shards import PrepareConfig
from data_pipelines.sources.files import Item
from soraxla.core.errors import UserError
from soraxla.media import read, videos


@pytest.mark.parametrize(
    ("module", "decoder", "kinds"),
    [(read, "rgb", (".jpg", ".png")), (videos, "_turn", (".mp4", ".webm"))],
)
@pytest.mark.parametrize("function", [read.probe, read.read_clip])
def test_a_decode_without_memory_names_the_file(
    monkeypatch, module, decoder, kinds, function
):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(module, decoder, refuse)
    file = next(f for f in sorted(SAMPLES.iterdir()) if f.suffix in kinds)
    if function is read.probe and decoder == "rgb":
        monkeypatch.setattr(read, "frame_count", refuse)  # it decodes no pixel
    with pytest.raises(UserError, match=r"does not fit into memory; make it") as error:
        function(file)
    assert str(error.value).startswith(f"{file}: ")


def test_a_picture_with_a_large_profile_or_text_is_read(tmp_path):
    """Pillow's limit is a megabyte."""
    text = PngInfo()
    text.add_text("a", "x" * (3 << 20), zip=True)
    profile = np.random.default_rng(0).bytes(2 << 20)
    picture = Image.new("RGB", (16, 16), (200, 60, 30))
    picture.save(tmp_path / "a.png", pnginfo=text, icc_profile=profile)
    assert read.probe(tmp_path / "a.png").width == 16
    assert read.read_clip(tmp_path / "a.png")[0, 0, 0].tolist() == [200, 60, 30]


def test_a_picture_beyond_every_limit_is_named(tmp_path):
    text = PngInfo()
    text.add_text("a", "x" * (17 << 20), zip=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(UserError, match=r"a\.png: is corrupt or truncated \(Decompr"):
        read.read_clip(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """170 megapixels in 20 kB, below Pillow's own limit."""
    Image.new("1", (13_000, 13_000)).save(tmp_path / "a.png")
    monkeypatch.setattr("soraxla.media.read.rgb", None)
    item = Item(file=tmp_path / "a.png", caption="a", uid="a.png")
    assert item.open().size == (13_000, 13_000)
    settings = PrepareConfig(
        vae_sha256="",
        text_encoder="",
        max_tokens=32768,
        shard_bytes=1,
        latent_channels=16,
        vae_spatial=8,
        conditions=False,
    )
    with pytest.raises(Unreadable, match="one frame of 12992x12992 pixels makes"):
        list(read_pieces(item, settings))
