"""A decode that finds no memory is a mistake of the user's, with the file."""

import pytest

from data_pipelines import SAMPLES
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
