"""URLs where local paths are expected."""

from pathlib import Path

import pytest

import soraxla
from soraxla.core.errors import UserError
from soraxla.core.paths import refuse_urls


@pytest.mark.parametrize(
    "place",
    [
        "gs://bucket/run",
        Path("gs://bucket/run"),
        "s3://bucket/run",
        "https://example.com/a.mp4",
        Path("file:///tmp/a.mp4"),
        "umt5:gs://bucket/umt5",
        [Path("a"), Path("gs://bucket/run")],
    ],
)
def test_a_url_is_refused_with_the_remedy(place):
    with pytest.raises(UserError, match=r"^out is .*://.*; mount the bucket, .*below"):
        refuse_urls(out=place)


def test_names_and_local_paths_are_none():
    refuse_urls(
        a="hf:ORG/NAME", b="tfds:name/train", c="umt5:/weights", d=Path("hf:ORG/NAME")
    )
    refuse_urls(a=None, b=3, c=Path("/mnt/bucket"), d="a:b/c", e=Path("a b/c"), f=[])


def test_the_api_refuses_them_at_once():
    cfg = {"kind": "dit"}
    for call in (
        lambda: soraxla.prepare("samples", "gs://b/d"),
        lambda: soraxla.train(cfg, data="d", workdir="gs://b/r"),
        lambda: soraxla.load("ftp://b/r"),
    ):
        with pytest.raises(UserError, match="://b/"):
            call()
