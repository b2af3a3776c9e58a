"""Contact sheets: every clip is where its row and column are."""

import numpy as np
import pytest

from soraxla.media.contact_sheet import SheetRow, contact_sheet


def clip(color, frames=4, height=20, width=30):
    return np.full((frames, height, width, 3), color, np.uint8)


def columns_of(picture, color):
    """The x of all pixels of a color."""
    return np.flatnonzero((picture == color).all(axis=-1).any(axis=0))


RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def test_clips_of_a_column_start_at_one_place_in_their_own_rows():
    rows = [
        SheetRow(caption="a first clip", clips=[clip(RED), clip(GREEN, width=60)]),
        SheetRow(caption="a second", clips=[None, clip(BLUE, frames=1)]),
    ]
    picture = np.asarray(contact_sheet(rows, titles=("one", "two"), height=40))
    red, green, blue = (columns_of(picture, c) for c in (RED, GREEN, BLUE))
    assert red.max() < green.min() == blue.min()
    # Three frames of 60 and 120 pixels, one of 60, with gaps between frames.
    assert (len(red), len(green), len(blue)) == (180, 360, 60)
    heights = [(picture == c).all(axis=-1).any(axis=1) for c in (RED, GREEN, BLUE)]
    assert [h.sum() for h in heights] == [40, 40, 40]
    np.testing.assert_array_equal(heights[0], heights[1])
    assert not (heights[0] & heights[2]).any()


def test_frames_are_evenly_spaced_from_the_first_to_the_last():
    grey = np.arange(0, 50, 10, dtype=np.uint8).reshape(5, 1, 1, 1)
    ramp = np.broadcast_to(grey + 100, (5, 8, 8, 3)).copy()
    sheet = contact_sheet([SheetRow(caption="", clips=[ramp])], frames=3, height=8)
    picture = np.asarray(sheet)
    for value, there in ((100, True), (110, False), (120, True), (140, True)):
        assert (len(columns_of(picture, (value,) * 3)) == 8) == there


def test_a_frame_shape_is_kept():
    for width, height in ((40, 20), (20, 40), (33, 32)):
        one = clip(RED, frames=1, height=height, width=width)
        sheet = contact_sheet([SheetRow(caption="x", clips=[one])], height=64)
        red = columns_of(np.asarray(sheet), RED)
        assert len(red) == pytest.approx(64 * width / height, abs=1)


def test_long_captions_make_a_row_taller_not_the_sheet_wider():
    rows = [SheetRow(caption=c, clips=[clip(RED)]) for c in ("short", "word " * 60)]
    short, long = (contact_sheet([row]) for row in rows)
    assert long.width == short.width and long.height > short.height
