"""Folders of clips as VBench and VBench-2.0 expect them."""

import shutil
from collections import Counter
from pathlib import Path

from soraxla.core.errors import UserError
from soraxla.evals.clip_sets import open_set, prompts_of
from soraxla.files.atomic_folder import atomic_folder

_LONGEST = 180  # characters of a prompt in a name, in VBench-2.0; VBench's are shorter


def export_vbench(generated: Path, out: Path) -> list[str]:
    """Copies the clips of a folder to PROMPT-INDEX.mp4, and returns the names.

    The index counts the clips of one prompt from 0, in the order of their names
    (https://github.com/Vchitect/VBench, `prompts/README.md` of both versions).

    Raises:
        UserError: a clip has no prompt or is no .mp4, or a prompt cannot be a file's
            name; or `out` exists.
        OSError: `out` cannot be written.
    """
    clips = open_set(generated)
    prompts, counts, names = prompts_of(clips), Counter(), {}
    for name, file in sorted(clips.files.items()):
        stem = prompts[name][:_LONGEST]
        if file.suffix.lower() != ".mp4":
            raise UserError(f"{file}: VBench reads .mp4, expected such clips")
        if "/" in stem:
            raise UserError(
                f"{file}: its prompt {stem!r} has a slash, which no file name has; "
                "leave the clip out"
            )
        names[file] = f"{stem}-{counts[stem]}.mp4"
        counts[stem] += 1
    with atomic_folder(out) as partial:
        for file, name in names.items():
            shutil.copyfile(file, partial / name)
    return list(names.values())
