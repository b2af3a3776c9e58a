"""The chat client against a local server with planned answers."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from soraxla.core.errors import UserError
from soraxla.files.chat import KEY, Chat, ChatConfig, NoAnswerError, picture_part
from tests.fake_endpoint import Server, failing, said

SCHEMA = {"type": "object", "required": ["caption"]}
ASK = [{"role": "user", "content": "describe"}]


@pytest.fixture
def server():
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def chat(server):
    """Returns a chat whose waits take no time, and the waits."""

    def make(**settings):
        config = ChatConfig(url=server.url, model="eye", timeout=5.0, **settings)
        waits: list[float] = []
        return Chat(config=config, sleep=waits.append, clock=lambda: 0.0), waits

    return make


def test_a_request_has_model_messages_schema_and_key(server, chat, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    server.answers = [said('```json\n{"caption": "a cat"}\n```')]
    ask, waits = chat(prices=(1.0, 10.0))
    assert ask.ask(ASK, SCHEMA).fields == {"caption": "a cat"}
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["messages"]) == ("eye", ASK)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert (ask.requests, ask.tokens, waits) == (1, [100, 10], [])
    assert ask.cost == pytest.approx(0.0002)


LATER = {
    "429": failing(429, **{"Retry-After": "7"}),
    "500": failing(500),
    "no JSON": (200, b"<html>", {}, 0),
    "no choices": (200, {"choices": []}, {}, 0),
    "no object": said("a cat sits"),
    "another object": said('{"text": "a cat"}'),
    "an empty text": said(" "),
    "a cut connection": (200, b"", {"Content-Length": "9"}, 0),
}


@pytest.mark.parametrize("kind", LATER)
def test_a_failure_that_may_pass_is_asked_again_after_a_wait(server, chat, kind):
    server.answers = [LATER[kind], LATER[kind], said('{"caption": "a cat"}')]
    ask, waits = chat()
    assert ask.ask(ASK, SCHEMA).fields == {"caption": "a cat"}
    assert waits == ([7.0, 7.0] if kind == "429" else [1.0, 2.0])


def test_a_server_that_does_not_answer_in_time_is_asked_again(server, chat):
    server.answers = [(200, {}, {}, 0.4), said("a cat")]
    ask, waits = chat()
    ask.config = ChatConfig(url=server.url, model="eye", timeout=0.1)
    assert ask.ask(ASK).text == "a cat"
    assert waits == [1.0]


def test_no_answer_in_all_tries_names_the_last_reason(server, chat):
    server.answers = [failing(503)]
    ask, waits = chat(tries=3)
    with pytest.raises(NoAnswerError, match=r"no answer in 3 tries.*HTTP 503"):
        ask.ask(ASK)
    assert (len(server.requests), waits) == (3, [1.0, 2.0])


def test_a_refusal_is_not_asked_again(server, chat):
    server.answers = [failing(401, "wrong key")]
    ask, waits = chat()
    with pytest.raises(UserError, match=f"HTTP 401: wrong key.*set {KEY}") as found:
        ask.ask(ASK)
    assert not isinstance(found.value, NoAnswerError)
    assert (len(server.requests), waits) == (1, [])


def test_requests_keep_to_the_rate_and_to_the_costs(server, chat):
    server.answers = [said("a cat", (1_000_000, 0))]
    ask, waits = chat(per_minute=30.0, prices=(1.5, 0.0), most_cost=3.0)
    assert [ask.ask(ASK).text for _ in range(2)] == ["a cat"] * 2
    assert waits == [2.0]  # the clock stands still
    with pytest.raises(UserError, match=r"2 requests cost \$3\.00, the limit is"):
        ask.ask(ASK)
    assert len(server.requests) == 2


def test_settings_are_checked():
    for wrong in (
        {"url": "localhost:8000"},
        {"most_cost": 1.0},
        {"per_minute": 0.0},
        {"tries": 0},
    ):
        with pytest.raises(UserError):
            ChatConfig(**{"url": "http://x", "model": "eye", **wrong})


def test_a_frame_is_a_data_url():
    frame = np.full((16, 24, 3), (200, 40, 90), np.uint8)
    url = picture_part(frame)["image_url"]["url"]
    head, data = url.split(",")
    assert head == "data:image/jpeg;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert read.shape == frame.shape and np.abs(read - frame.astype(int)).max() < 6
