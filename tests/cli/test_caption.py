"""`soraxla caption apply` with a local endpoint, from its options to the table."""

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from data_pipelines.curate import table
from soraxla.cli.main import main
from tests.data_pipelines.curate.pictures import table_of_pictures
from tests.fake_endpoint import Server, failing, said

TOLD = {"subject": "grey", "action": "none", "camera": "still", "setting": "a wall"}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def apply(tmp_path, server):
    """Runs the command on a table of pictures; returns its status and the rows."""
    clips = table_of_pictures(tmp_path)

    def run(*options):
        words = ["--clips", str(clips), "--endpoint", server.url, "--model", "eye"]
        status = main(["caption", "apply", *words, "--at-once", "1", *options])
        return status, table.read_clips(clips / table.CLIPS)[0]

    return run


def told(caption, **usage):
    return said(json.dumps(TOLD | {"caption": caption}), **usage)


def test_an_endpoint_writes_structured_captions_and_a_run_goes_on(
    apply, server, capsys
):
    server.answers = [told("a dark wall"), failing(429), told("a  grey\nwall")]
    server.answers.append(failing(400, "too many pictures"))
    status, rows = apply()
    assert status == 2
    assert "HTTP 400: too many pictures" in capsys.readouterr().err
    captions = ["a dark wall", "a grey wall", None, None, None]
    assert [row["caption"] for row in rows] == captions
    assert json.loads(rows[0]["caption_fields"])["setting"] == "a wall"
    assert rows[1]["caption_original"] == "its own words"
    assert rows[0]["caption_model"] == "eye"
    assert rows[0]["caption_prompt"].startswith("These are frames")
    content = server.requests[0][2]["messages"][0]["content"]
    data = content[1]["image_url"]["url"].partition(",")[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert picture.shape == (16, 16, 3) and abs(int(picture.mean()) - 20) < 3
    # Again: only the clip that is missing is asked for.
    server.answers = [*server.answers, told("a light wall")]
    status, rows = apply()
    assert (status, rows[4]["caption"], len(server.requests)) == (0, "a light wall", 5)
    assert "3 of 4 kept clips have a caption of eye" in capsys.readouterr().out


def test_costs_stop_a_run_and_keep_its_captions(apply, server, capsys):
    server.answers = [told("a wall", tokens=(2_000_000, 0))]
    status, rows = apply("--prices", "1", "2", "--most-cost", "1.5")
    assert (status, rows[0]["caption"]) == (2, "a wall")
    assert "the limit is $1.50" in capsys.readouterr().err


def test_options_that_do_not_fit_are_one_line(apply, refusal, tmp_path):
    words = ("caption", "apply", "--clips", tmp_path / "clips")
    assert "--model" in refusal(*words, "--endpoint", "http://x")
    assert "--least-match needs" in refusal(
        *words, "--endpoint", "http://x", "--model", "eye", "--least-match", "2"
    )
    assert "not allowed with" in refusal(
        *words, "--endpoint", "http://x", "--checkpoint", "y"
    )
    assert "http" in refusal(*words, "--endpoint", "localhost:1", "--model", "eye")
