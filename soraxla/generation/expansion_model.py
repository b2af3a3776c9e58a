"""Prompt expansion by a language model behind an OpenAI-compatible endpoint."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence

from soraxla.core.errors import UserError
from soraxla.files.chat import Chat, ChatConfig
from soraxla.generation.expansion import Expansion, Grammar

URL, MODEL = "SORAXLA_EXPAND_BASE_URL", "SORAXLA_EXPAND_MODEL"
_SHOWN = 12  # training captions in a request
_ASKED = (
    "You expand prompts for a text-to-video model. Answer with one caption and nothing "
    "else. Keep the words of the prompt, and add what it leaves open: subject, motion, "
    "setting, light and camera, in at most 120 words. Add nothing that contradicts the "
    "prompt."
)
_LIKE = "Write in the way of these captions, on which the model was trained:\n"

Expand = Callable[[str, int], Expansion]


def expander(
    captions: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Expand:
    """Returns the function that expands a prompt by a seed.

    The variables SORAXLA_EXPAND_BASE_URL and SORAXLA_EXPAND_MODEL name an endpoint and
    its model. Without them, or without an answer, the grammar of the captions expands.

    Raises:
        UserError: a variable without the other one, or no URL.
    """
    url, model = environment.get(URL), environment.get(MODEL)
    if not url and not model:
        return Grammar(captions).expand
    if not url or not model:
        missing, given = (MODEL, URL) if url else (URL, MODEL)
        raise UserError(f"{missing} is not set; set it beside {given}")
    grammar = functools.cache(Grammar)  # whose fit takes seconds, if it is needed
    chat = Chat(config=ChatConfig(url=url, model=model, timeout=30.0, tries=2))

    def expand(prompt: str, seed: int) -> Expansion:
        try:
            text = chat.ask(_messages(prompt, captions)).text
        except UserError as error:
            found = grammar(tuple(captions)).expand(prompt, seed)
            return found._replace(by=f"{found.by}, since {error}")
        return Expansion(prompt, " ".join(text.strip('"').split()), model)

    return expand


def _messages(prompt: str, captions: Sequence[str]) -> list[dict[str, str]]:
    asked = _ASKED
    if captions:
        step = -(-len(captions) // _SHOWN)
        asked += " " + _LIKE + "\n".join(captions[::step])
    return [
        {"role": "system", "content": asked},
        {"role": "user", "content": prompt},
    ]
