"""Captioned media in tar archives, as WebDataset stores them.

Datasets made by video2dataset and img2dataset have this format: KEY.mp4 or KEY.jpg,
KEY.txt with the caption, and KEY.json with other facts.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonpath
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from tqdm import tqdm

from data_pipelines.sources.content import content_of
from data_pipelines.sources.embedded import open_embedded
from data_pipelines.sources.media import CAPTIONS, Extent, Media
from data_pipelines.sources.shard_names import files_of
from data_pipelines.sources.tar_members import Group, Member, list_archive
from soraxla.core.errors import UserError
from soraxla.media.read import MEDIA_SUFFIXES, VIDEO_SUFFIXES

_SUFFIX = ".tar"
_COPIED = 1 << 20  # bytes at once
_TRIED = 8  # samples of a kind that are decoded to estimate the sizes of the others


@dataclass(frozen=True, kw_only=True, slots=True)
class TarSample:
    """The medium and the caption of a key; `uid` is ARCHIVE.tar/KEY.

    Attributes:
        fault: the reason that the sample cannot be used, or None.
    """

    source: "WebDatasetSource"
    archive: Path
    uid: str
    member: Member
    caption: str
    fault: str | None

    def open(self) -> Media:
        """Opens the medium; see `Sample.open`."""
        if self.fault is not None:
            raise UserError(self.fault)
        return open_embedded(self._data(), self.suffix, self.caption)

    def size(self) -> Extent:
        """Estimates the size; see `WebDatasetSource.extent`."""
        return self.source.extent(self)

    @property
    def suffix(self) -> str:
        """The suffix of the medium's file, with its dot."""
        return _suffix(self.member.field)

    def _data(self) -> Iterator[bytes]:
        left = self.member.size
        with self.archive.open("rb") as file:
            file.seek(self.member.offset)
            while left:
                data = file.read(min(left, _COPIED))
                if not data:
                    raise UserError("its archive has become shorter; copy it again")
                left -= len(data)
                yield data


class WebDatasetSource(Sequence[TarSample]):
    """The samples of the tar archives of a folder or a pattern, in their order.

    A sample is a key with a medium. Of several media it is a video before a picture,
    then the one of the shortest field. The caption is KEY.txt, or else the entry of
    KEY.json with one of the names in `media.CAPTIONS`. A sample without a medium or
    caption cannot be opened.

    Args:
        place: a folder, whose archives are sorted by name, or a pattern of archives
            such as clips-{0000..0099}.tar.
        caption_column: the entry of KEY.json that holds the caption, in place of
            KEY.txt.

    Raises:
        UserError: there is no archive; one is compressed, damaged or cut short; or no
            key has both a medium and a caption.
    """

    def __init__(self, place: str, *, caption_column: str | None = None):
        archives = files_of(place, _SUFFIX)
        root = Path(commonpath([archive.parent.absolute() for archive in archives]))
        self._samples: list[TarSample] = []
        for archive in tqdm(archives, unit="archive", disable=None, leave=False):
            name = archive.absolute().relative_to(root).as_posix()
            for group in list_archive(archive):
                uid = f"{name}/{group.key}"
                self._samples.append(self._sample(archive, uid, group, caption_column))
        if all(sample.fault for sample in self._samples):
            faults = (f"{s.uid} {s.fault}" for s in self._samples)
            raise UserError(
                f"{place}: has no sample that can be used "
                f"({next(faults, 'no members of a key')}); expected members such as "
                "KEY.mp4 with KEY.txt or KEY.json"
            )
        self.name = "wds"
        self._archives = archives
        self._measuring = Lock()

    @cached_property
    def content(self) -> list[str | None]:
        """Hashes of the listing and of the archives' contents."""
        digest = hashlib.sha256()
        for s in self._samples:
            digest.update(json.dumps([s.uid, *s.member, s.caption]).encode())
        return [digest.hexdigest(), *map(content_of, self._archives)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index]

    def extent(self, sample: TarSample) -> Extent:
        """Estimates a sample's size from its bytes, beside those of its kind's first.

        A kind is a suffix. Decoding all samples would read all archives twice.
        """
        with self._measuring:  # once, though several threads ask
            known = self._kinds.get(sample.suffix)
        if known is None or sample.fault is not None:
            return Extent(0, 0, 0, 0)
        size, member_bytes = known
        frames = size.frames
        if frames > 1:
            frames = max(1, round(frames * sample.member.size / member_bytes))
        text = len(sample.caption.encode())
        return Extent(size.height, size.width, frames, text)

    @cached_property
    def _kinds(self) -> dict[str, tuple[Extent, int]]:
        """The size and the bytes of the first readable sample of each suffix."""
        known: dict[str, tuple[Extent, int]] = {}
        tried: dict[str, int] = {}
        for sample in self._samples:
            kind, attempts = sample.suffix, tried.get(sample.suffix, 0)
            if sample.fault is not None or kind in known or attempts >= _TRIED:
                continue
            tried[kind] = attempts + 1
            try:
                media = sample.open()
                frames = sum(1 for _ in media.frames)
            except (UserError, OSError):
                continue
            assert media.size is not None
            known[kind] = Extent(*media.size, frames, 0), sample.member.size
        return known

    def _sample(
        self, archive: Path, uid: str, group: Group, column: str | None
    ) -> TarSample:
        media = [m for m in group.members if _suffix(m.field) in MEDIA_SUFFIXES]
        caption, fault = "", None
        fields = [member.field for member in group.members]
        if not media:
            fault = f"has no media file, only .{', .'.join(fields)}"
        elif twice := [field for field in fields if fields.count(field) > 1]:
            fault = f"has .{twice[0]} twice; give each clip its own key"
        else:
            try:
                caption = _caption(group.texts, column)
            except UserError as error:
                fault = str(error)
        return TarSample(
            source=self,
            archive=archive,
            uid=uid,
            member=min(media or group.members, key=_rank),
            caption=caption,
            fault=fault,
        )


def _suffix(field: str) -> str:
    return PurePosixPath(f"x.{field}").suffix


def _rank(member: Member) -> tuple[bool, int, int]:
    is_video = _suffix(member.field) in VIDEO_SUFFIXES
    return not is_video, len(member.field), member.offset


def _caption(texts: dict[str, bytes], column: str | None) -> str:
    """Returns the caption of a sample's texts; raises UserError if there is none."""
    if column is None and "txt" in texts:
        caption = _decoded(texts["txt"], ".txt")
    elif "json" in texts:
        caption = _entry(texts["json"], column)
    else:
        expected = ".txt or .json" if column is None else ".json"
        raise UserError(f"has no caption; expected a member {expected} of its key")
    if not caption.strip():
        raise UserError("has an empty caption")
    return " ".join(caption.split())


def _entry(data: bytes, column: str | None) -> str:
    try:
        facts = json.loads(_decoded(data, ".json"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "msg", str(error))
        raise UserError(f"its .json is not JSON ({reason})") from None
    names = CAPTIONS if column is None else (column,)
    if not isinstance(facts, dict):
        raise UserError("its .json is no object with a caption")
    for name in names:
        value = facts.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str):
            return value
    found = ", ".join(list(facts)[:8]) or "nothing"
    raise UserError(
        f"its .json has no text under {' or '.join(names)}, only {found}; name the "
        "entry by --caption-column"
    )


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"its {name} is not UTF-8") from None
