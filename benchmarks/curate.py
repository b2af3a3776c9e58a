"""Speed and memory of curation, and the CPU time of each stage.

    python -m benchmarks.curate [--json FILE] [--seconds 180] [--workers 2]

The benchmark writes one film of 640×360 at 25 fps per worker to a temporary folder:
textures that move, with a cut every six seconds, encoded as H.264. `soraxla curate`
then curates them as a user would; the memory of its processes is their highest resident
set. The profile is of one film in one process, in seconds of CPU time, so other
programs of the machine disturb it little.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np

from benchmarks.harness import ROOT, conditions, write_json

SIZE, FPS, SHOT = (360, 640), 25, 6  # (height, width), frames and seconds
STAGES = ("borders", "motion", "picture", "text", "duplicates")
_POLL = 0.2  # seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where the report is written")
    parser.add_argument("--seconds", type=int, default=180, help="length of each film")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        for number in range(arguments.workers):
            write_film(raw / f"{number}.mp4", arguments.seconds, seed=number)
        results = {"film_seconds": arguments.seconds, "workers": arguments.workers}
        short = Path(folder, "short.mp4")
        write_film(short, 2, seed=9)
        profile(short, 2)  # imports
        results["cpu_ms_a_second_of_film"] = profile(raw / "0.mp4", arguments.seconds)
        results |= whole(raw, Path(folder, "out"), arguments.seconds, arguments.workers)
    for name, value in results.items():
        print(f"{name}: {value}")
    if arguments.json is not None:
        write_json(arguments.json, {**conditions(), "results": results})


def write_film(path: Path, seconds: int, seed: int) -> None:
    """Writes a film of moving textures with a cut every `SHOT` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = SIZE
    options = {"crf": "23", "preset": "veryfast"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(seconds * FPS):
            shot, t = divmod(number, SHOT * FPS)
            if t == 0:
                picture = _texture(1000 * seed + shot)
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture[:, 2 * t : 2 * t + width]), format="rgb24"
            )
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _texture(seed: int) -> np.ndarray:
    """Returns a wide picture with structure of many sizes, as photographs have."""
    rng, (height, width) = np.random.default_rng(seed), SIZE
    whole = np.full((height, width + 2 * SHOT * FPS, 3), 127.0, np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256):
        coarse = rng.normal(size=(cells, 2 * cells, 3)).astype(np.float32)
        whole += 90 / np.sqrt(cells) * cv2.resize(coarse, whole.shape[1::-1])
    return np.clip(whole, 0, 255).astype(np.uint8)


def whole(raw: Path, out: Path, seconds: int, workers: int) -> dict[str, Any]:
    """Returns the speed of `soraxla curate` and the memory of its processes.

    The speed by CPU time is that of idle cores, one per worker.
    """
    command = [sys.executable, "-m", "soraxla.cli.main", "curate"]
    command += ["--source", str(raw), "--out", str(out), "--workers", str(workers)]
    load, start = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    peaks: dict[int, int] = {}
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, done))
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    spent = time.perf_counter() - start
    done.set()
    watcher.join()
    if status:
        raise OSError(f"soraxla curate ended with exit status {status}")
    cpu = usage.ru_utime + usage.ru_stime  # with the workers, which it waited for
    return {
        "seconds": spent,
        "cpu_seconds": cpu,
        "times_real_time": seconds * workers / spent,
        "times_real_time_by_cpu_time": seconds * workers**2 / cpu,
        "peak_mib_of_each_process": sorted(peak // 1024 for peak in peaks.values()),
        "load_before": load,
    }


def _watch(session: int, peaks: dict[int, int], done: threading.Event) -> None:
    """Keeps the highest resident set, in KiB, of each process of a session."""
    while not done.wait(_POLL):
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, StopIteration):
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[3]) == session:
                    lines = (folder / "status").read_text().splitlines()
                    line = next(line for line in lines if line.startswith("VmHWM"))
                    peaks[int(folder.name)] = int(line.split()[1])


def profile(path: Path, seconds: int) -> dict[str, float]:
    """Returns the milliseconds of CPU time of each stage per second of a film."""
    from data_pipelines.curate import film

    spent: dict[str, float] = defaultdict(float)
    clock = time.process_time

    def timed(name: str, function: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += clock() - start

        return run

    def pulled(name: str, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        source = iter(frames)
        while True:
            start = clock()
            try:
                frame = next(source)
            except StopIteration:
                return
            finally:
                spent[name] += clock() - start
            yield frame

    with contextlib.ExitStack() as stack:
        for stage in STAGES:
            module = getattr(film, stage)
            for name in ("scores", "crop", "clip_hash", "key_picture"):
                if hasattr(module, name) and (stage, name) != ("duplicates", "scores"):
                    function = timed(stage, getattr(module, name))
                    stack.enter_context(mock.patch.object(module, name, function))
        sampled = timed("samples", film._sampled)
        stack.enter_context(mock.patch.object(film, "_sampled", sampled))
        read = film.read_frames
        stack.enter_context(
            mock.patch.object(film, "read_frames", lambda p: pulled("decode", read(p)))
        )
        start = clock()
        film.curate_file(path, film.sha256_of(path), film.CurateConfig())
        total = clock() - start
    spent["shots and the rest"] = total - sum(spent.values())
    spent["all"] = total
    return {name: round(1000 * value / seconds, 2) for name, value in spent.items()}


if __name__ == "__main__":
    main()
