"""Captions in a table of clips: stored as they come, resumed, flagged and filtered."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.curate import table
from data_pipelines.curate.caption_work import CaptionJob, Description, caption_clips
from data_pipelines.records import PROGRESS
from data_pipelines.sources.clips import ClipsSource
from data_pipelines.sources.files import open_source
from data_pipelines.view import ViewConfig
from soraxla.core.errors import UserError
from tests.data_pipelines.curate.pictures import table_of_pictures

VIEW = ViewConfig(frames=1, side=16, patch=8)


@pytest.fixture
def clips(tmp_path):
    return table_of_pictures(tmp_path)


def job(asked, **settings):
    """A captioner that names a picture's grey, and notes what it is asked."""

    def describe(views):
        greys = [int(shown.pixels[0, 0, 0, 0]) for shown in views]
        asked.extend(greys)
        return [
            Description(f"a grey of {grey}", "", {"tone": str(grey)}) for grey in greys
        ]

    made = CaptionJob(name="toy:1", settings={}, describe=describe, view=VIEW, batch=2)
    return replace(made, **settings)


def columns(out, name):
    return [row[name] for row in table.read_clips(out / table.CLIPS)[0]]


def test_kept_clips_get_captions_and_keep_their_own_beside(clips):
    asked = []
    caption_clips(clips, job(asked, prompt="look"))
    told = ["a grey of 20", "a grey of 60", None, None, "a grey of 180"]
    assert columns(clips, "caption") == told
    assert columns(clips, "caption_original") == [None, "its own words", *[None] * 3]
    named = ["toy:1" if text else None for text in told]
    assert columns(clips, "caption_model") == named
    assert columns(clips, "caption_prompt") == ["look"] * 3 + [None, "look"]
    status = columns(clips, "caption_status")
    assert status[:2] + status[3:] == ["written", "written", None, "written"]
    assert status[2].startswith("unreadable: ") and "2.png: no such file" in status[2]
    assert json.loads(columns(clips, "caption_fields")[0]) == {"tone": "20"}
    # Again: nothing is asked, and the own words stay.
    before = (clips / table.CLIPS).read_bytes()
    caption_clips(clips, job(asked, prompt="look"))
    assert asked == [20, 60, 180]
    assert (clips / table.CLIPS).read_bytes() == before
    # Another prompt asks again, and its captions replace the first ones.
    caption_clips(clips, job(asked, prompt="listen"), most=1)
    assert asked == [20, 60, 180, 20]
    assert columns(clips, "caption_original")[1] == "its own words"


def test_a_run_that_stops_keeps_what_is_done_and_the_next_one_goes_on(clips):
    asked = []
    whole = job(asked)

    def stops(views):
        found = list(whole.describe(views))
        return [*found[:-1], UserError("the budget is spent")]

    with pytest.raises(UserError, match="budget"):
        caption_clips(clips, replace(whole, describe=stops))
    assert columns(clips, "caption")[:2] == ["a grey of 20", "its own words"]
    (store,) = (clips / PROGRESS).glob("captions-*.jsonl")
    with store.open("a") as file:
        file.write('\n{"clip_id": "id1", "capt')  # as a kill leaves it
    asked.clear()
    caption_clips(clips, whole)
    assert asked == [60, 180]
    assert columns(clips, "caption")[4] == "a grey of 180"


def test_a_clip_without_an_answer_is_asked_again_in_the_next_run(clips):
    asked = []
    silent = job(
        asked, describe=lambda views: [Description(None, "HTTP 503")] * len(views)
    )
    caption_clips(clips, silent)
    assert columns(clips, "caption_status")[0] == "failed: HTTP 503"
    assert columns(clips, "caption")[:2] == [None, "its own words"]
    caption_clips(clips, job(asked))
    assert asked == [20, 60, 180]


def test_captions_that_do_not_match_are_not_used_and_need_no_new_ones(clips):
    asked, scored = [], []

    def match(views, captions):
        scored.extend(captions)
        return np.array([float(text.endswith("180")) * 100 for text in captions])

    caption_clips(clips, job(asked))
    filtering = job(asked, match=match, match_name="clip:1", least_match=50.0)
    for _ in range(2):
        caption_clips(clips, filtering)
    assert asked == [20, 60, 180]
    assert scored == ["a grey of 20", "a grey of 60", "a grey of 180"]
    assert columns(clips, "caption") == [
        None,
        "its own words",
        *[None] * 2,
        "a grey of 180",
    ]
    assert columns(clips, "caption_status")[0] == "mismatch"
    assert columns(clips, "caption_match") == [0.0, 0.0, None, None, 100.0]


def test_captions_of_the_films_folder_are_originals(clips):
    lines = [{"file": f"{i}.png", "caption": f"picture {i}"} for i in (0, 1, 4)]
    listed = clips.parent / "raw" / "captions.jsonl"
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    caption_clips(clips, job([]))
    found = columns(clips, "caption_original")
    assert found == ["picture 0", "its own words", None, None, "picture 4"]


def test_a_later_curation_keeps_captions(clips):
    caption_clips(clips, job([]))
    fresh = [
        row | dict.fromkeys(table.CAPTION)
        for row in table.read_clips(clips / table.CLIPS)[0]
    ]
    kept = table.with_captions(fresh, clips / table.CLIPS)
    assert [row["caption"] for row in kept] == columns(clips, "caption")


def test_a_table_without_the_newer_columns_is_read(clips):
    import pyarrow.parquet as pq

    path = clips / table.CLIPS
    older = pq.read_table(path).drop_columns(list(table.CAPTION[3:]))
    pq.write_table(older, path)
    rows, _ = table.read_clips(path)
    assert rows[1]["caption"] == "its own words"
    assert {rows[1][name] for name in table.CAPTION[3:]} == {None}
    assert len(open_source(str(path))) == 4


def test_a_share_of_the_clips_keeps_its_original_caption(clips):
    lines = [{"file": f"{i}.png", "caption": f"picture {i}"} for i in (0, 1, 4)]
    listed = clips.parent / "raw" / "captions.jsonl"
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    caption_clips(clips, job([]))

    def captions(share):
        source = ClipsSource(clips / table.CLIPS, caption_mix=share)
        return [sample.caption for sample in source], source.content

    (new, one), (old, other) = captions(0.0), captions(1.0)
    assert new == ["a grey of 20", "a grey of 60", "", "a grey of 180"]
    assert old == ["picture 0", "its own words", "", "picture 4"]
    assert one != other
    found = [captions(share / 9)[0] for share in range(10)]
    kept = [{i for i in (0, 1, 3) if texts[i] == old[i]} for texts in found]
    assert all(before <= after for before, after in itertools.pairwise(kept))
    with pytest.raises(UserError, match=r"caption_mix is 1\.5"):
        captions(1.5)
