"""Films are cut into pieces that hold every frame but a short end."""

import numpy as np
import pytest

from data_pipelines import transforms


def test_pieces_stream_and_hold_one_piece_at_a_time():
    taken = 0

    def film():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield np.full((40, 56, 3), number % 256, np.uint8)

    cut = transforms.pieces(film(), max_tokens=12)  # 6 a latent frame
    assert next(cut).frames.shape == (5, 32, 48, 3)
    assert taken == 5
    starts = [piece.start for piece in cut]
    assert starts == list(range(5, 1000, 5))


@pytest.mark.parametrize("frames", range(1, 30))
def test_pieces_keep_all_but_a_short_end(frames):
    film = [np.full((16, 16, 3), n, np.uint8) for n in range(frames)]
    cut = list(transforms.pieces(film, max_tokens=3))
    assert all(len(p.frames) % 4 == 1 and len(p.frames) <= 9 for p in cut)
    kept = np.concatenate([p.frames[:, 0, 0, 0] for p in cut])
    np.testing.assert_array_equal(kept, np.arange(len(kept)))
    assert 0 <= frames - len(kept) <= 4
    assert [p.start for p in cut] == list(range(0, len(kept), 9))


def test_a_frame_over_the_limit_is_refused_with_its_tokens():
    box = transforms.crop_box(4320, 7680)
    with pytest.raises(ValueError, match="7680x4320 pixels makes 129600 tokens"):
        transforms.piece_frames(box, 16384)
    assert transforms.piece_frames(box, 129600 * 3) == 9
