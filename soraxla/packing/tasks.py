"""The tasks of the model, as one table: training and sampling look names up here.

A task is a set of condition tokens. Tokens *in place* are part of the clip's latents,
where a causal VAE encodes them as it would without the rest of the clip. *Appended*
tokens are encoded by themselves and follow the clip's tokens, at their true time.

To add a task: a row here; in `soraxla.generation.task_inputs` the class that holds its
frames; in `soraxla.generation.tasks` the function that lays it out; and its option in
`soraxla.cli.media`.
"""

from typing import Literal, NamedTuple

InPlace = Literal["first frame", "beginning", "surroundings"]
Appended = Literal["last frame", "end", "frames"]


class Task(NamedTuple):
    """A task's options, its condition tokens, and the share that teaches it."""

    options: str  # of `soraxla generate`
    share: str  # of `ConditioningMixture`
    in_place: InPlace | None = None
    appended: Appended | None = None


TASKS: dict[str, Task] = {
    "text": Task("--prompt TEXT", "none"),
    "first_frame": Task("--image P", "first", "first frame"),
    "last_frame": Task("--last-image P", "frames", None, "frames"),
    "first_last_frame": Task(
        "--image P --last-image P", "first_last", "first frame", "last frame"
    ),
    "extend_forward": Task("--extend V", "prefix", "beginning"),
    "extend_backward": Task("--extend V --direction backward", "tail", None, "end"),
    "connect": Task("--connect A B", "both_ends", "beginning", "end"),
    "loop": Task("--loop [V]", "both_ends", "beginning", "end"),
    "edit": Task("--edit V", "none"),
    "inpaint": Task("--inpaint V --mask P", "spatial", "surroundings"),
    "outpaint": Task("--inpaint V --canvas WxH", "spatial", "surroundings"),
}

# The shares in the order of the mixture's fields. A visit chooses one by numbers that
# are keyed by the names, so a schedule does not depend on their order.
SHARES = (
    *("none", "first", "prefix", "tail", "first_last", "both_ends", "frames"),
    "spatial",
)


def shares_with(
    *, in_place: InPlace | None = None, appended: Appended | None = None
) -> list[str]:
    """Returns the shares whose visits have these condition tokens, in order."""
    found = {
        task.share
        for task in TASKS.values()
        if (in_place is None or task.in_place == in_place)
        and (appended is None or task.appended == appended)
    }
    return [share for share in SHARES if share in found]
