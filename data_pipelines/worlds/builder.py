"""`soraxla_worlds`, a TFDS dataset of clips that the worlds simulate.

Parallel processes write it in ArrayRecord, without TensorFlow. Clip i is a function of
(config, seed, i), so its bytes do not depend on how many processes there are. A shard
is whole or not there, and a build that was interrupted goes on; the dataset is renamed
to its place when all is written.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.naming import ShardedFileTemplate
from tensorflow_datasets.core.splits import SplitDict, SplitInfo
from tqdm import tqdm

from data_pipelines.worlds import WORLDS, draw_size
from data_pipelines.worlds.sizes import PICTURES
from soraxla.core.errors import UserError

# Each clip is of a world that is drawn for it. `flat` has none seen from within; half
# of its clips are of the world with the most words.
MIXTURES = {
    "mixed": tuple(WORLDS),
    "flat": ("occlusion", "occlusion", "physics", "marks"),
}
CONFIGS = (*MIXTURES, *WORLDS)

_SHARD = 128  # clips of a shard at most
_SEEDS = 2**31


def _packed(dtype: Any, *shape: int | None) -> tfds.features.Tensor:
    # zlib looks back 32 KiB, more than a frame of most sizes: what rests costs nothing.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")


FEATURES: dict[str, Any] = {
    "video": _packed(np.uint8, None, None, None, 3),
    "fps": np.float32,
    "caption": tfds.features.Text(),
    "world": tfds.features.Text(),
    "seed": np.int64,
    "actions": _packed(np.float32, None, None),
    "camera": _packed(np.float32, None, 4, 4),
    "depth": _packed(np.float32, None, None, None),
    "ids": _packed(np.uint8, None, None, None),
    "state": tfds.features.Tensor(shape=(), dtype=np.object_),
}


def world_of(config: str, seed: int) -> str:
    """The world of a clip: the config's, or one drawn of its mixture."""
    if config not in MIXTURES:
        return config
    names = MIXTURES[config]
    return names[np.random.default_rng((seed, 1)).integers(len(names))]


def example(config: str, seed: int, pictures: float = PICTURES) -> dict[str, Any]:
    """One clip as `FEATURES` has it; docs/worlds.md says what each is.

    `camera` and `depth` have no rows of a flat world; `state` is the bytes of an .npz.
    """
    world = world_of(config, seed)
    episode = WORLDS[world](seed, **draw_size(seed, pictures=pictures)._asdict())
    flat = not episode.depth.any()
    state = io.BytesIO()
    np.savez_compressed(state, allow_pickle=False, **episode.state)
    return {
        "video": episode.video,
        "fps": episode.fps,
        "caption": episode.caption,
        "world": world,
        "seed": seed,
        "actions": episode.actions.astype(np.float32),
        "camera": episode.camera[: 0 if flat else None].astype(np.float32),
        "depth": np.zeros((0, 0, 0), np.float32) if flat else episode.depth,
        "ids": episode.ids,
        "state": state.getvalue(),
    }


class SoraxlaWorlds(FileReaderBuilder):
    """`soraxla_worlds/CONFIG` in `data_dir`, a world or a mixture, of one split, train.

    Clip i has the seed `seed`·2³² + i; the share `pictures` have one frame. `workers`
    processes write it.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS reads a list
        tfds.core.BuilderConfig(name=name, description=f"The world {name}.")
        for name in CONFIGS
    ]

    def __init__(
        self,
        *,
        clips: int = 10_000,
        seed: int = 0,
        pictures: float = PICTURES,
        workers: int = 1,
        progress: bool = True,
        **builder: Any,
    ):
        self.asked = {"clips": clips, "seed": seed, "pictures": pictures}
        self._workers, self._progress = workers, progress
        super().__init__(file_format="array_record", **builder)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips of simulated worlds, with captions and the exact state.",
            features=tfds.features.FeaturesDict(FEATURES),
            metadata=tfds.core.MetadataDict(self.asked | self._steering()),
        )

    def _steering(self) -> dict[str, Any]:
        """What steers clips, where a camera moves in them."""
        config = self.builder_config
        if config is None or config.name not in ("mixed", "voxel"):
            return {}
        from data_pipelines.worlds.voxel_actions import ACTIONS

        return {"actions": list(ACTIONS), "camera": True}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        clips, seed, pictures = self.asked.values()
        final = Path(self.data_path)  # TFDS renames it when this returns
        config = final.parent
        unfinished = config / f".{self.VERSION}-clips{clips}-seed{seed}-{pictures}"
        unfinished.mkdir(parents=True, exist_ok=True)
        template = ShardedFileTemplate(
            data_dir=self.data_path,
            dataset_name=self.name,
            split="train",
            filetype_suffix="array_record",
        )
        count = -(-clips // _SHARD)
        names = [
            Path(template.sharded_filepath(shard_index=k, num_shards=count)).name
            for k in range(count)
        ]
        firsts = [k * clips // count for k in range(count + 1)]
        shards = [
            _Shard(unfinished / name, config.name, seed, pictures, first, last)
            for name, first, last in zip(names, firsts, firsts[1:], strict=False)
        ]
        _write_all(shards, self._workers, self._progress)
        for name in names:
            os.replace(unfinished / name, final / name)
        shutil.rmtree(unfinished)
        split = SplitInfo(
            name="train",
            shard_lengths=[shard.last - shard.first for shard in shards],
            num_bytes=sum((final / name).stat().st_size for name in names),
        )
        self.info.set_splits(SplitDict([split]))


def build(
    config: str,
    data_dir: str | os.PathLike[str],
    *,
    clips: int,
    seed: int = 0,
    pictures: float = PICTURES,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Writes `soraxla_worlds/CONFIG` below `data_dir`; returns the dataset's folder.

    What is there already is left as it is, and what was interrupted goes on.

    Raises:
      UserError: in one line, for an unknown config, a number out of range, or a
        dataset there that has other clips.
      OSError: the folder cannot be written.
    """
    if config not in CONFIGS:
        raise UserError(f"unknown world {config!r}, expected {', '.join(CONFIGS)}")
    if not 0 <= pictures <= 1:
        raise UserError(f"pictures is {pictures}, expected a share from 0 to 1")
    if clips < 1 or workers < 1 or not 0 <= seed < _SEEDS:
        raise UserError(
            f"clips is {clips}, workers {workers} and seed {seed}, expected at least "
            f"one clip and worker, and a seed of 0 to {_SEEDS - 1}"
        )
    builder = SoraxlaWorlds(
        clips=clips,
        seed=seed,
        pictures=pictures,
        workers=workers,
        progress=progress,
        config=config,
        data_dir=os.fspath(data_dir),
    )
    folder = Path(builder.data_path)
    there = builder.info.metadata or {}  # what was written, where something was
    there = {name: there.get(name) for name in builder.asked}
    if there != builder.asked:
        raise UserError(
            f"{folder}: holds other clips ({_pairs(there)}) than asked for "
            f"({_pairs(builder.asked)}); choose another --out, or remove the folder"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloads
        builder.download_and_prepare()
    return folder


def _pairs(numbers: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in (numbers or {}).items())


# --- Shards, in parallel ----------------------------------------------------------


class _Shard(NamedTuple):
    """Clips `first` to `last` - 1 in one file."""

    file: Path
    config: str
    seed: int
    pictures: float
    first: int
    last: int


_written: Any = None  # in a worker: the count of clips, shared by all


def _start(written: Any) -> None:
    global _written
    _written = written
    # Ctrl-C stops the parent, which lets each worker end the shard it is at.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A world that needs JAX must not fight over an accelerator with its neighbours.
    os.environ["JAX_PLATFORMS"] = "cpu"


def _write(shard: _Shard) -> None:
    """Writes one file, whole or not at all."""
    features: Any = tfds.features.FeaturesDict(FEATURES)
    serializer = ExampleSerializer(features.get_serialized_info())
    temporary = shard.file.with_name(f".{shard.file.name}.tmp")
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    for index in range(shard.first, shard.last):
        clip = example(shard.config, (shard.seed << 32) + index, shard.pictures)
        record = serializer.get_tf_example(features.encode_example(clip))
        # A record is a map, whose order in bytes is else another in every process.
        writer.write(record.SerializeToString(deterministic=True))
        with _written.get_lock():
            _written.value += 1
    writer.close()
    os.replace(temporary, shard.file)


def _write_all(shards: list[_Shard], workers: int, progress: bool) -> None:
    """Writes the shards that are not there yet, and shows clips/s and what is left."""
    missing = [shard for shard in shards if not shard.file.exists()]
    clips = sum(shard.last - shard.first for shard in missing)
    total = shards[-1].last
    context = multiprocessing.get_context("spawn")  # safe beside any library's threads
    written = context.Value("q", 0)
    workers = min(workers, len(missing))
    if not missing:
        return
    with (
        tqdm(
            total=total, initial=total - clips, unit="clip", disable=not progress
        ) as bar,
        ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start, initargs=(written,)
        ) as pool,
    ):
        pending = {pool.submit(_write, shard) for shard in missing}
        try:
            while pending:
                done, pending = wait(pending, 0.2, return_when=FIRST_EXCEPTION)
                for shard in done:
                    shard.result()
                bar.update(written.value - (bar.n - (total - clips)))
        except BrokenProcessPool:
            raise UserError(
                "a process that simulates was ended from outside, perhaps for want of "
                "memory; run this again with fewer --workers to go on"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
