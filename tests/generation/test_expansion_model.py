"""A language model expands prompts, and the training captions if it does not answer."""

import pytest

from soraxla.core.errors import UserError
from soraxla.files import chat
from soraxla.generation.expansion_model import MODEL, URL, expander
from tests.fake_endpoint import Server, failing, said
from tests.generation.test_expansion import CAPTIONS


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(chat.time, "sleep", lambda seconds: None)
    with Server() as found:
        yield found
        found.shutdown()


def environment(server):
    return {URL: server.url, MODEL: "small-model"}


def test_the_model_gets_the_prompt_and_some_captions(server):
    server.answers = [said('"A red ball\nrolls down a hill."')]
    found = expander(CAPTIONS, environment(server))("a red ball", 0)
    assert found == ("a red ball", "A red ball rolls down a hill.", "small-model")
    [(path, _, body)] = server.requests
    assert path == "/v1/chat/completions" and body["model"] == "small-model"
    system, user = (message["content"] for message in body["messages"])
    assert user == "a red ball" and sum(c in system for c in CAPTIONS) == 12
    expander((), environment(server))("a red ball", 0)
    assert "captions, on which" not in server.requests[1][2]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([failing(503)], "no answer in 2 tries"),
        ([said("")], "no answer in 2 tries"),
        ([failing(401, "no such key")], "no such key"),
    ],
)
def test_without_an_answer_the_captions_expand(server, answers, reason):
    server.answers = answers
    found = expander(CAPTIONS, environment(server))("a red ball", 3)
    assert found[:2] == expander(CAPTIONS, {})("a red ball", 3)[:2]
    assert found.by.startswith("the grammar of the training captions, since http")
    assert reason in found.by and "\n" not in found.by


def test_half_an_endpoint_is_refused():
    with pytest.raises(UserError, match=f"{MODEL} is not set; set it beside {URL}"):
        expander(CAPTIONS, {URL: "http://localhost"})
    with pytest.raises(UserError, match=f"{URL} is not set; set it beside {MODEL}"):
        expander(CAPTIONS, {MODEL: "a"})
    with pytest.raises(UserError, match="expected http"):
        expander(CAPTIONS, {MODEL: "a", URL: "localhost"})
