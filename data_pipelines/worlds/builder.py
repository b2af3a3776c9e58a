"""`soraxla_worlds`, a TFDS dataset of simulated clips.

Parallel processes write it in ArrayRecord, without TensorFlow. Clip i is a function of
(config, seed, i), so its bytes do not depend on the number of processes. Shards are
written atomically, and an interrupted build continues; the dataset gets its final name
when all shards are written.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
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
from soraxla.files.atomic_file import atomic_file
from soraxla.parallel.local_lock import busy, trying_lock

# A world is drawn for each clip. `flat` has no first-person world; half of its clips
# are of the world with the most words. `effects` is younger than the mixtures, whose
# clips must not change.
MIXTURES = {
    "mixed": ("occlusion", "physics", "marks", "voxel"),
    "flat": ("occlusion", "occlusion", "physics", "marks"),
}
CONFIGS = (*MIXTURES, *WORLDS)

_SHARD = 128  # the most clips per shard
_SEEDS = 2**31


def _packed(dtype: Any, *shape: int | None) -> tfds.features.Tensor:
    # zlib looks back 32 KiB, more than most frames, so still regions cost nothing.
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
    """Returns the world of a clip: the config's, or one drawn from its mixture."""
    if config not in MIXTURES:
        return config
    names = MIXTURES[config]
    return names[np.random.default_rng((seed, 1)).integers(len(names))]


def example(config: str, seed: int, pictures: float = PICTURES) -> dict[str, Any]:
    """Returns one clip with the keys of `FEATURES`, which docs/worlds.md describes.

    `camera` and `depth` have no rows in a flat world; `state` is the bytes of an .npz.
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
    """The builder of `soraxla_worlds/CONFIG`, a world or a mixture of worlds.

    Its only split is train. Clip i has the seed `seed`·2³² + i; the share `pictures`
    has one frame. `workers` processes write it.
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
        self.requested = {"clips": clips, "seed": seed, "pictures": pictures}
        self._workers, self._progress = workers, progress
        super().__init__(file_format="array_record", **builder)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips of simulated worlds, with captions and the exact state.",
            features=tfds.features.FeaturesDict(FEATURES),
            metadata=tfds.core.MetadataDict(self.requested | self._steering()),
        )

    def _steering(self) -> dict[str, Any]:
        """Returns the metadata of actions and camera, if the camera moves."""
        config = self.builder_config
        if config is None or config.name not in ("mixed", "voxel"):
            return {}
        from data_pipelines.worlds.voxel_actions import ACTIONS

        return {"actions": list(ACTIONS), "camera": True}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        clips, seed, pictures = self.requested.values()
        final = Path(self.data_path)  # TFDS renames it after this function
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

    A finished dataset stays as it is, and an interrupted one continues.

    Raises:
        UserError: the config is unknown, a number is out of range, or the dataset
            exists with other clips.
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
    written = builder.info.metadata or {}  # of an existing dataset
    written = {name: written.get(name) for name in builder.requested}
    if written != builder.requested:
        raise UserError(
            f"{folder}: holds other clips ({_pairs(written)}) than requested "
            f"({_pairs(builder.requested)}); choose another --out, or remove the folder"
        )
    if not folder.exists():
        with _alone(folder), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()  # TFDS prints about downloads
    # Remains if a build was killed at its very end.
    shutil.rmtree(_lock(folder), ignore_errors=True)
    return folder


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.running")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock of a dataset's folder, in which only one build may be at work."""
    with trying_lock(_lock(folder)) as free:
        if not free:
            raise busy(folder)
        # TFDS gives its temporary folders random names; a killed build leaves its own.
        for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
            shutil.rmtree(left)
        try:
            yield
        finally:
            shutil.rmtree(_lock(folder), ignore_errors=True)


def _pairs(numbers: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in (numbers or {}).items())


# --- Shards, in parallel ----------------------------------------------------------


class _Shard(NamedTuple):
    """The clips `first` to `last` - 1, in one file."""

    file: Path
    config: str
    seed: int
    pictures: float
    first: int
    last: int


_written: Any = None  # in a worker: the shared count of clips


def _start(written: Any) -> None:
    global _written
    _written = written
    # Ctrl-C stops the parent, which lets each worker finish its shard.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Worlds that need JAX must not share an accelerator.
    os.environ["JAX_PLATFORMS"] = "cpu"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker at once if its parent is killed.

    It would wait for work forever, or write the same file as the next build's worker.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(shard: _Shard) -> None:
    """Writes one file atomically."""
    features: Any = tfds.features.FeaturesDict(FEATURES)
    serializer = ExampleSerializer(features.get_serialized_info())
    with atomic_file(shard.file) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1")
        for index in range(shard.first, shard.last):
            clip = example(shard.config, (shard.seed << 32) + index, shard.pictures)
            record = serializer.get_tf_example(features.encode_example(clip))
            # Otherwise the order of a record's map differs between processes.
            writer.write(record.SerializeToString(deterministic=True))
            with _written.get_lock():
                _written.value += 1
        writer.close()


def _write_all(shards: list[_Shard], workers: int, progress: bool) -> None:
    """Writes the missing shards; shows clips/s and the remaining work."""
    missing = [shard for shard in shards if not shard.file.exists()]
    clips = sum(shard.last - shard.first for shard in missing)
    total = shards[-1].last
    context = multiprocessing.get_context(
        "spawn"
    )  # safe with the threads of any library
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
                "a process that simulates was killed, perhaps for lack of "
                "memory; run this again with fewer --workers to continue"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
