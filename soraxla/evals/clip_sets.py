"""Sets of clips in folders, read one clip at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines.sources.files import folder as captioned
from soraxla.core.errors import UserError
from soraxla.files.hashing import sha256_of_files
from soraxla.media.read import MEDIA_SUFFIXES, probe, read_clip


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """The media files of a folder, by name: the path in the folder without suffix."""

    folder: Path
    files: Mapping[str, Path]

    @property
    def sha256(self) -> str:
        """The hash of the files' bytes, in the order of their names."""
        return sha256_of_files(self.files[name] for name in sorted(self.files))

    def described(self) -> dict[str, Any]:
        """Returns the set's folder, hash and number of clips."""
        return {"folder": str(self.folder), "sha256": self.sha256, "n": len(self.files)}

    def read(self, name: str) -> UInt8[np.ndarray, "t h w 3"]:
        """Returns the frames of a clip.

        Raises:
            UserError: the file is damaged.
        """
        return read_clip(self.files[name])

    def size(self, name: str) -> str:
        """Returns a clip's WIDTHxHEIGHT."""
        info = probe(self.files[name])
        return f"{info.width}x{info.height}"

    def fps(self, name: str) -> float | None:
        """Returns a clip's frames per second; None for a picture."""
        return probe(self.files[name]).fps or None


def open_set(folder: Path) -> ClipSet:
    """Returns the set of a folder and its subfolders.

    Raises:
        UserError: there is no folder or no media file, or two files have one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a folder of videos")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or path.suffix.lower() not in MEDIA_SUFFIXES:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise UserError(
                f"{path}: {files[name].name} has the same name, expected one file per "
                "clip; rename one"
            )
        files[name] = path
    if not files:
        raise UserError(f"{folder}: holds no video or picture; name a folder of them")
    return ClipSet(folder=folder, files=files)


def readable(clips: ClipSet) -> tuple[ClipSet, dict[str, str]]:
    """Returns the set without clips that cannot be opened, and the reason for each."""
    kept, skipped = {}, {}
    for name, path in clips.files.items():
        try:
            probe(path)
        except UserError as error:
            skipped[name] = str(error)
        else:
            kept[name] = path
    return ClipSet(folder=clips.folder, files=kept), skipped


def prompts_of(clips: ClipSet) -> dict[str, str]:
    """Returns the prompt of each clip, as `soraxla prepare` reads captions.

    Raises:
        UserError: the folder has no captions, or a clip has none.
    """
    found = {item.file.resolve(): item.caption for item in captioned(clips.folder)}
    prompts = {}
    for name, path in clips.files.items():
        if path.resolve() not in found:
            raise UserError(
                f"{path}: has no prompt, expected a line in captions.jsonl of "
                f"{clips.folder}, or a text file beside it; add one"
            )
        prompts[name] = found[path.resolve()]
    return prompts


def differences(generated: ClipSet, reference: ClipSet) -> list[str]:
    """Returns a note for each property in which the sets differ: sizes, rates, lengths.

    Nothing is resampled for it: a distance between sets includes the difference.
    """
    notes = []
    infos = [[probe(x) for x in each.files.values()] for each in (generated, reference)]
    for what, values in (
        ("sizes", lambda info: f"{info.width}x{info.height}"),
        ("frame rates", lambda info: f"{info.fps:g}"),
        ("lengths", lambda info: f"{info.frames} frames"),
    ):
        one, other = (sorted({values(info) for info in each}) for each in infos)
        if one != other:
            notes.append(
                f"the {what} differ: {_some(one)} generated, {_some(other)} in the "
                "reference; nothing is resampled"
            )
    return notes


def check_pairs(generated: ClipSet, reference: ClipSet) -> None:
    """Raises UserError unless each generated clip has a reference of its shape."""
    for name, path in generated.files.items():
        if name not in reference.files:
            raise UserError(
                f"{path}: {reference.folder} has no clip named {name!r}, expected one "
                "for each generated clip; add it, or leave out metrics of pairs"
            )
        one, other = probe(path), probe(reference.files[name])
        shapes = [(i.frames, i.height, i.width) for i in (one, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path}: {shapes[0][0]} frames of {one.width}x{one.height}, expected "
                f"{shapes[1][0]} of {other.width}x{other.height} as in "
                f"{reference.folder}; generate at the reference's size and length"
            )


def _some(values: list[str]) -> str:
    return ", ".join(values[:3]) + (", …" if len(values) > 3 else "")
