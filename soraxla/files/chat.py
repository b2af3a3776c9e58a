"""Chat with a model behind an OpenAI-compatible endpoint: retries, limits and costs.

The standard library only. The key is that of the environment variable OPENAI_API_KEY;
local servers need none. Threads may share a chat.
"""

import base64
import http.client
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from soraxla.core.errors import UserError

KEY = "OPENAI_API_KEY"
_LONGEST_WAIT = 60.0  # seconds between tries
# Statuses of a server that may answer later; others mean that the request is wrong.
_LATER = (408, 409, 425, 429, 500, 502, 503, 504, 529)


class NoAnswerError(UserError):
    """The endpoint gave no usable answer to one request, in all tries."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """The settings of an endpoint.

    Attributes:
        url: of the API, such as http://localhost:8000/v1.
        model: its name there.
        timeout: seconds for one answer.
        tries: of each request; waits between them double from one second on.
        per_minute: most requests; None sets no limit.
        prices: US dollars for a million tokens, of requests and of answers.
        most_cost: US dollars at which no further request is sent; None sets no limit.
        max_tokens: of an answer.
    """

    url: str
    model: str
    timeout: float = 120.0
    tries: int = 6
    per_minute: float | None = None
    prices: tuple[float, float] = (0.0, 0.0)
    most_cost: float | None = None
    max_tokens: int = 400

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"endpoint {self.url!r}: expected http://… or https://…")
        if self.tries < 1 or not self.timeout > 0:
            raise UserError("an endpoint needs at least 1 try and a timeout above 0")
        if self.per_minute is not None and not self.per_minute > 0:
            raise UserError(f"{self.per_minute} requests a minute, expected above 0")
        if self.most_cost is not None and not any(self.prices):
            raise UserError("a limit of costs needs the prices of tokens")


class Answer(NamedTuple):
    """The text of an answer, and its JSON if a schema was asked for."""

    text: str
    fields: Mapping[str, Any] | None


@dataclass(kw_only=True)
class Chat:
    """Requests to an endpoint, with the tokens and costs up to now.

    Attributes:
        sleep, clock: of the waits, for tests.
    """

    config: ChatConfig
    sleep: Callable[[float], None] = lambda seconds: time.sleep(seconds)
    clock: Callable[[], float] = time.monotonic
    requests: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    # `threading.Lock` is a function, and no type, before Python 3.13.
    _lock: AbstractContextManager[Any] = field(
        default_factory=threading.Lock, repr=False
    )
    _next: float = 0.0  # the time of the next request

    @property
    def cost(self) -> float:
        """US dollars spent."""
        pairs = zip(self.tokens, self.config.prices, strict=True)
        return sum(count * price for count, price in pairs) / 1e6

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Returns the model's answer to messages.

        Args:
            schema: a JSON schema of an object; an answer without its required keys, or
                with other types, is asked for again.

        Raises:
            NoAnswerError: no try gave a usable answer; the next request may succeed.
            UserError: the endpoint refuses requests like this one, it cannot be
                reached, or the costs have reached their limit.
        """
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": list(messages),
            "max_tokens": self.config.max_tokens,
        }
        if schema is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        reason = ""
        for number in range(self.config.tries):
            self._wait_for_turn()
            wait = min(2.0**number, _LONGEST_WAIT)
            try:
                return self._read(self._sent(body), schema)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code not in _LATER:
                    raise self._refused(error) from None
                wait = max(wait, _retry_after(error))
            except (TimeoutError, OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, KeyError, TypeError, IndexError) as error:
                reason = f"an unusable answer ({error})"
            if number + 1 < self.config.tries:
                self.sleep(min(wait, _LONGEST_WAIT))
        raise NoAnswerError(
            f"{self.config.url}: no answer in {self.config.tries} tries, the last: "
            f"{reason}; check the endpoint and try again"
        )

    def _wait_for_turn(self) -> None:
        """Waits for the rate; raises UserError if the costs have reached the limit."""
        limit = self.config.most_cost
        with self._lock:
            if limit is not None and self.cost >= limit:
                raise UserError(
                    f"{self.config.url}: {self.requests} requests cost "
                    f"${self.cost:.2f}, the limit is ${limit:.2f}; raise it to go on"
                )
            now = self.clock()
            turn = max(now, self._next)
            if self.config.per_minute is not None:
                self._next = turn + 60.0 / self.config.per_minute
            self.requests += 1
        if turn > now:
            self.sleep(turn - now)

    def _sent(self, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.config.url.rstrip('/')}/chat/completions",
            data=json.dumps(body).encode(),
            headers=headers,
        )
        with urllib.request.urlopen(request, timeout=self.config.timeout) as answer:
            return json.loads(answer.read())

    def _read(self, answer: Any, schema: Mapping[str, Any] | None) -> Answer:
        """Returns the text of an answer; raises ValueError and others for nonsense."""
        used = answer.get("usage") or {}
        with self._lock:
            for i, name in enumerate(("prompt_tokens", "completion_tokens")):
                self.tokens[i] += int(used.get(name) or 0)
        text = answer["choices"][0]["message"]["content"]
        if not isinstance(text, str) or not text.strip():
            raise ValueError("it is empty")
        if schema is None:
            return Answer(text.strip(), None)
        fields = json.loads(_unfenced(text))
        check_schema(fields, schema)
        return Answer(text.strip(), fields)

    def _refused(self, error: urllib.error.HTTPError) -> UserError:
        try:
            said = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError, OSError):
            said = error.reason
        hint = f"; set {KEY}" if error.code in (401, 403) else ""
        said = " ".join(str(said).split())[:200]
        return UserError(
            f"{self.config.url}: refuses the request (HTTP {error.code}: {said}){hint}"
        )


def check_schema(value: Any, schema: Mapping[str, Any]) -> None:
    """Raises ValueError unless an object has the required texts of a flat schema."""
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    for name in schema.get("required", ()):
        if not isinstance(value.get(name), str):
            raise ValueError(f"it has no text {name!r}")


def picture_part(frame: UInt8[np.ndarray, "h w 3"], quality: int = 85) -> dict:
    """Returns a frame as a part of a message: a data URL of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="JPEG", quality=quality)
    data = base64.b64encode(file.getvalue()).decode()
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/jpeg;base64,{data}"},
    }


def _unfenced(text: str) -> str:
    """Returns the JSON of an answer, which some models put between fences."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Returns the seconds that a server asks to wait; 0 if it does not say."""
    try:
        return max(0.0, float(error.headers.get("Retry-After") or 0.0))
    except ValueError:  # a date
        return 0.0
