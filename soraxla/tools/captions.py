"""Captions of curated clips by a captioner, or by a model behind an endpoint."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.curate.caption_work import CaptionJob, Description
from data_pipelines.view import View, ViewConfig
from soraxla.core.errors import UserError
from soraxla.files.chat import Chat, NoAnswerError, picture_part
from soraxla.generation.captioning import CaptionWriter

PROMPT = (
    "These are frames of one video clip, in their order. Describe the clip for someone "
    "who cannot see it: every subject with its look and number, what it does and in "
    "which direction, the camera's movement and framing, and the setting with its "
    "light. State only what the frames show. Write plain sentences, not a list."
)
_TOLD = {
    "subject": "who or what is shown, with look and number",
    "action": "what happens, in order, with directions",
    "camera": "framing, angle and movement of the camera",
    "setting": "place, light, weather, style",
    "caption": "all of it in one to three plain sentences",
}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        name: {"type": "string", "description": what} for name, what in _TOLD.items()
    },
    "required": list(_TOLD),
    "additionalProperties": False,
}
# Requests without an answer, one after the other, that end a run.
MOST_FAILURES = 5


def model_job(writer: CaptionWriter, name: str) -> CaptionJob:
    """Returns the job of a captioner of soraxla."""

    def describe(views: Sequence[View]) -> list[Description]:
        return [Description(written.text) for written in writer.captions(views)]

    return CaptionJob(
        name=f"{name}:{writer.sha256[:16]}",
        settings={"writing": vars(writer.writing)},
        describe=describe,
        view=writer.model.view,
    )


def endpoint_job(
    chat: Chat,
    *,
    prompt: str = PROMPT,
    view: ViewConfig | None = None,
    at_once: int = 4,
) -> CaptionJob:
    """Returns the job of a vision model behind an endpoint, with structured captions.

    Args:
        at_once: requests that wait for their answers together.
    """
    failures = _Failures()
    ask = partial(_ask, chat, prompt, failures)

    def describe(views: Sequence[View]) -> list[Description | UserError]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(ask, views))

    return CaptionJob(
        name=chat.config.model,
        settings={"endpoint": chat.config.url, "max_tokens": chat.config.max_tokens},
        describe=describe,
        view=view or ViewConfig(frames=8, side=512, patch=2),
        prompt=prompt,
        batch=at_once,
    )


class _Failures:
    """A count of requests without an answer since the last one that had one."""

    count = 0


def _ask(
    chat: Chat, prompt: str, failures: _Failures, shown: View
) -> Description | UserError:
    times = ", ".join(f"{time:.1f} s" for time in shown.times)
    text = {"type": "text", "text": f"{prompt}\nThe frames are at {times}."}
    content = [text, *map(picture_part, shown.pixels)]
    try:
        answer = chat.ask([{"role": "user", "content": content}], SCHEMA)
    except NoAnswerError as error:
        failures.count += 1
        if failures.count >= MOST_FAILURES:
            return UserError(str(error))
        return Description(None, str(error))
    except UserError as error:
        return error
    failures.count = 0
    told = answer.fields or {}
    fields = {name: " ".join(told[name].split()) for name in _TOLD}
    return Description(fields["caption"] or None, "", fields)


def clip_match(folder: Path) -> tuple[str, Callable[..., np.ndarray]]:
    """Returns the name of a local CLIP and its scores of views and captions, 0…100.

    Raises:
        UserError: as `load_clip`.
    """
    from soraxla.evals.clip_score import clip_score, load_clip

    model = load_clip(folder)

    def match(views: Sequence[View], captions: Sequence[str]) -> np.ndarray:
        return clip_score(model, [shown.pixels for shown in views], captions)

    return f"{folder.name}:{model.sha256[:16]}", match
