"""Preparation of media as a dataset of latents and text embeddings, interruptible.

The samples of each shard are chosen before the first is encoded (`shards.py`), and
written to `progress/shards.json`. The bytes of a shard depend on its samples only, so
several workers write shards of one folder without talking to each other, and any number
of interruptions ends with the same bytes (`shard_writer.py`). The worker that finds all
shards finished completes the dataset; its card, `dataset.json`, is written last.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import append, records, shards, transforms
from data_pipelines.bad_media import check_share, check_there
from data_pipelines.decode_ahead import decode_ahead
from data_pipelines.encode_part import read_pieces
from data_pipelines.encoders import Encoders
from data_pipelines.progress import REMEDY, Progress, tokens
from data_pipelines.resample import check_resampling, resampled_extent
from data_pipelines.shard_writer import (
    ShardNote,
    is_finished,
    notes_of_parts,
    parts_done,
    shard_note,
    write_shard,
)
from data_pipelines.sources.files import open_source
from data_pipelines.sources.media import (
    CAPTION_MIX,
    LabelledSource,
    Source,
    SteeredSource,
)
from data_pipelines.token_features import SIMULATOR
from soraxla.core.errors import UserError
from soraxla.parallel.local_lock import busy, trying_lock

_CAMERA_NUMBERS = 16  # of a frame
# The first sample of each part of each shard, and its end, by the shard's number.
_Shards = dict[int, list[int]]
_COUNTS = ("samples", "tokens", "cut_clips", "shards")


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    encode: Encoders,
    vae_dir: Path | None,
    vae_sha256: str,
    text_encoder: str,
    data_dir: str | os.PathLike[str] | None = None,
    conditions: bool = True,
    caption_mix: float = CAPTION_MIX,
    caption_column: str | None = None,
    max_tokens: int = 32768,
    max_side: int | None = None,
    fps: float | None = None,
    max_bad: float | int = 0.05,
    shard_bytes: int = shards.SHARD_BYTES,
    worker: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> dict[str, Any] | None:
    """Encodes captioned media into the folder `out`, and returns its `dataset.json`.

    Sides are cropped to whole patches; a clip is trimmed to 1 + 4k frames and cut into
    pieces of at most `max_tokens` tokens. Unusable media are listed in `skipped.jsonl`.
    Called again after an interruption, it continues, and the result has the same bytes;
    see docs/dataset.md. Without the shards of other workers it returns None.

    Args:
        source, data_dir, caption_mix, caption_column: see `files.open_source`.
        out: a folder that is new, empty, or an unfinished or finished run of this.
        vae_dir: the VAE's weights folder, copied into `out`; None copies nothing.
        vae_sha256, text_encoder: a hash and a name, kept in `dataset.json`.
        conditions: also encode condition latents of tasks; see `condition_clips`.
        max_side, fps: see `resample.resampled`; None resamples nothing.
        max_bad: largest share of the source's samples that may be skipped.
        shard_bytes: about the most bytes of a shard, unless one video exceeds it.
        worker: (i, n) writes every n-th shard from the i-th on, the same for any n.

    Raises:
        UserError: a bad source or setting, bad samples, or an `out` of other files.
        OSError: `out` cannot be written.
    """
    settings = shards.PrepareConfig(
        vae_sha256=vae_sha256,
        text_encoder=text_encoder,
        max_tokens=max_tokens,
        shard_bytes=shard_bytes,
        latent_channels=encode.channels,
        vae_spatial=encode.spatial,
        conditions=conditions,
        features=encode.features and encode.features.record(),
        max_side=max_side,
        fps=fps,
    )
    _check_numbers(settings, max_bad, worker)
    captions: Any = {"caption_mix": caption_mix, "caption_column": caption_column}
    samples = open_source(source, data_dir=data_dir, **captions)
    check_resampling(settings, samples)
    made = _Unfinished(Path(out), samples, settings, max_bad, progress)
    return made.prepare(encode, worker, vae_dir)


@dataclass(frozen=True)
class _Unfinished:
    """A dataset that is prepared from samples by some settings."""

    out: Path
    samples: Source
    settings: shards.PrepareConfig
    max_bad: float | int
    shown: bool
    base: append.Base | None = None
    identity: str = ""

    def prepare(
        self, encode: Encoders, worker: tuple[int, int], vae_dir: Path | None
    ) -> dict[str, Any] | None:
        """Writes the worker's shards, and returns the card if no other is missing."""
        check_there(self.samples, self.max_bad)
        _check_features(encode, self.samples)
        if (card := self._finished()) is not None:
            return card
        return self._begun()._go_on(encode, worker, vae_dir)

    def _begun(self) -> "_Unfinished":
        """Returns what is to be prepared: all samples, or those that `out` lacks."""
        out, settings = self.out, self.settings.identity()
        if not (out / records.CARD).is_file():
            _check_ours(out)
            made = append.identity_of(self.samples, settings, None)
            return replace(self, identity=made)
        card = records.read_card(out)
        found = append.open_base(out, card, self.samples, settings)
        if found is None:
            raise UserError(_other_run(out))
        made = append.identity_of(self.samples, settings, card["fingerprint"])
        return replace(self, samples=found[0], base=found[1], identity=made)

    def _finished(self) -> dict[str, Any] | None:
        """Returns the card of a finished dataset of all samples by these settings."""
        if not (self.out / records.CARD).is_file():
            return None
        card, made = records.read_card(self.out), self.identity
        if not made:
            settings, before = self.settings.identity(), append.before(card)
            made = append.identity_of(self.samples, settings, before)
        if card.get("fingerprint") != made:
            return None
        # The folder remains if the run was interrupted just before.
        shutil.rmtree(self.out / records.PROGRESS, ignore_errors=True)
        return card

    def _go_on(
        self, encode: Encoders, worker: tuple[int, int], vae_dir: Path | None
    ) -> dict[str, Any] | None:
        out, first = self.out, self.base.shard if self.base else 0
        [empty_text] = encode.texts([""])
        plan = dict(enumerate(self._claim(empty_text.shape[-1]), first))
        own = [*plan][worker[0] :: worker[1]]
        with self._meter(plan, own) as meter:
            self._write_shards(plan, own, encode, meter)
        if not all(is_finished(out, shard) for shard in plan):
            # Or another worker has completed the dataset and removed the notes.
            return self._finished()
        with trying_lock(out / records.PROGRESS) as free:
            if not free:
                raise busy(out)
            card = self._complete(plan, empty_text, vae_dir)
        # After the lock, which some file systems keep as long as it is open.
        shutil.rmtree(out / records.PROGRESS, ignore_errors=True)
        return card

    @property
    def _steering(self) -> tuple[tuple[str, ...], bool]:
        """The names of the source's actions, and whether it has cameras."""
        if isinstance(self.samples, SteeredSource):
            return self.samples.actions, self.samples.camera
        return (), False

    # --- The shards ---------------------------------------------------------------

    def _claim(self, text_width: int) -> shards.Plan:
        """Returns the plan in `progress/`, which the first run writes.

        Two workers that begin at the same time write the same.
        """
        file, found = self.out / records.PROGRESS / shards.SHARDS, {}
        if file.is_file():
            try:
                found = dict(json.loads(file.read_bytes()))
            except (ValueError, TypeError) as error:
                raise UserError(f"{file}: is damaged ({error}); remove it") from None
        if found.get("identity") == self.identity:
            return found["shards"]
        # Without a finished shard or part, a source that was corrected may start again.
        if any(file.parent.glob("[0-9]*.json")) or any(
            file.parent.glob("[0-9]*/*.json")
        ):
            raise UserError(_other_run(self.out, self.base is not None))
        actions, camera = self._steering
        steering = len(actions) + (_CAMERA_NUMBERS if camera else 0)
        size = partial(
            shards.record_bytes,
            settings=self.settings,
            text_width=text_width,
            steering=steering,
        )
        extents = shards.extents(self.samples, shown=self.shown)
        sizes = [size(resampled_extent(e, self.settings)) for e in extents]
        plan = shards.plan(sizes, self.settings.shard_bytes)
        file.parent.mkdir(parents=True, exist_ok=True)
        records.write_json(file, {"identity": self.identity, "shards": plan})
        return plan

    def _meter(self, plan: _Shards, own: Sequence[int]) -> Progress:
        """Returns a counter that knows what earlier runs have done and skipped."""
        done, skipped = 0, []
        for shard in own:
            firsts = plan[shard]
            if (note := shard_note(self.out, shard)) is not None:
                done += firsts[-1] - firsts[0]
                skipped += note.skipped
                continue
            parts = notes_of_parts(self.out, shard, len(firsts) - 1)
            for part, (first, end) in zip(parts, pairwise(firsts), strict=False):
                done += end - first
                skipped += part.skipped
        return Progress(
            self.out,
            sum(plan[shard][-1] - plan[shard][0] for shard in own),
            done,
            skipped,
            source=len(self.samples),
            max_bad=self.max_bad,
            shown=self.shown,
            earlier=self.base.skipped if self.base else (),
        )

    def _write_shards(
        self, plan: _Shards, own: Sequence[int], encode: Encoders, meter: Progress
    ) -> None:
        """Writes the shards that are missing; samples are decoded in one go."""
        out, settings = self.out, self.settings
        done = {s: parts_done(out, s, plan[s]) for s in own if not is_finished(out, s)}
        missing = (i for s in done for i in range(plan[s][done[s]], plan[s][-1]))
        decoded = decode_ahead(
            (self.samples[i] for i in missing), partial(read_pieces, settings=settings)
        )
        with closing(decoded):
            for shard, parts in done.items():
                write_shard(
                    out, shard, plan[shard], parts, decoded, encode, settings, meter
                )

    # --- The end ------------------------------------------------------------------

    def _complete(
        self, plan: _Shards, empty_text: np.ndarray, vae_dir: Path | None
    ) -> dict[str, Any]:
        """Writes all files but the shards, the card last; returns the card."""
        out, base, skipped, counts = self.out, self.base, [], Counter[str]()
        with records.IndexWriter(out / records.INDEX) as index:
            if base is not None:
                append.copy_rows(out, base, index)
            for note in self._notes(plan):
                skipped += note.skipped
                counts += _counts(note)
                index.write(note.rows)
        earlier = base.skipped if base else []
        records.write_lines(out / records.SKIPPED, [*earlier, *skipped])
        if skipped:  # each of several workers has seen its own
            last = f"{skipped[-1]['file']}: {skipped[-1]['reason']}"
            remedy = REMEDY.format(out / records.SKIPPED)
            check_share(skipped, len(self.samples), self.max_bad, last, remedy)
        if not counts["samples"]:
            raise UserError(
                f"{out}: none of {len(skipped)} samples can be used; see "
                f"{out / records.SKIPPED}"
            )
        if base is not None:
            card = _sum(base, counts, skipped, self.identity)
        else:
            card = self._card(counts, skipped, empty_text, vae_dir)
        records.write_json(out / records.CARD, card)
        return card

    def _card(
        self,
        counts: Counter[str],
        skipped: list[dict[str, str]],
        empty_text: np.ndarray,
        vae_dir: Path | None,
    ) -> dict[str, Any]:
        """Writes the files that no later addition changes; returns the card."""
        text = records.encode_record(text=empty_text)
        records.write_whole(self.out / records.EMPTY_TEXT, text)
        if vae_dir is not None:
            records.copy_folder(vae_dir, self.out / records.VAE)
        actions, camera = self._steering
        settings = self.settings.identity() | {"vae_temporal": transforms.TEMPORAL}
        return settings | {
            "format": records.FORMAT,
            "patch": list(transforms.PATCH),
            "actions": list(actions),
            "camera": camera,
            "text_width": empty_text.shape[-1],
            **{name: counts[name] for name in _COUNTS},
            "skipped": len(skipped),
            "fingerprint": self.identity,
        }

    def _notes(self, plan: _Shards) -> Iterator[ShardNote]:
        for shard in plan:
            note = shard_note(self.out, shard)
            assert note is not None
            yield note


def _sum(
    base: append.Base, counts: Counter[str], skipped: list[Any], identity: str
) -> dict[str, Any]:
    """Returns the card of a dataset that has been extended."""
    return base.card | {
        **{name: base.card[name] + counts[name] for name in _COUNTS},
        "skipped": base.card["skipped"] + len(skipped),
        "fingerprint": identity,
        "earlier": base.earlier,
    }


def _counts(note: ShardNote) -> Counter[str]:
    """Returns the counts of a shard; captioned sources of several pieces are cut."""
    pieces = Counter(row["source"] for row in note.rows if row["caption"].strip())
    return Counter(
        samples=len(note.rows),
        tokens=sum(map(tokens, note.rows)),
        cut_clips=sum(count > 1 for count in pieces.values()),
        shards=bool(note.rows),
    )


def _check_numbers(
    settings: shards.PrepareConfig, max_bad: float | int, worker: tuple[int, int]
) -> None:
    for name in ("max_tokens", "shard_bytes"):
        if (value := getattr(settings, name)) < 1:
            raise UserError(f"{name} is {value}, expected at least 1")
    if not 0 <= max_bad <= 1:
        raise UserError(f"max_bad is {max_bad}, expected a share between 0 and 1")
    if not 0 <= worker[0] < worker[1]:
        raise UserError(
            f"worker is {worker[0]} of {worker[1]}, expected 0 to {worker[1] - 1}"
        )


def _check_features(encode: Encoders, samples: Source) -> None:
    features = encode.features
    has_ids = isinstance(samples, LabelledSource) and samples.ids
    if features and features.source == SIMULATOR and not has_ids:
        raise UserError(
            f"the source has no ids of objects, which --features {SIMULATOR} needs; it "
            "is for tfds:soraxla_worlds"
        )


def _other_run(out: Path, extended: bool = False) -> str:
    if extended:
        progress = out / records.PROGRESS
        return (
            f"{progress}: is of files that were being added, and which have changed; "
            "restore them, or remove this folder and run the command again"
        )
    return (
        f"{out}: was prepared from another source, VAE, text encoder or settings; "
        "choose another --out, or remove the folder"
    )


def _check_ours(out: Path) -> None:
    progress = out / records.PROGRESS
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder")
    if out.is_dir() and not progress.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and holds no dataset; name a new folder")
