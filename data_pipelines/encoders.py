"""The encoders that `prepare` receives: clips of one size, and captions, in batches."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines import transforms
from data_pipelines.token_features import TokenFeatures
from soraxla.core.errors import UserError
from soraxla.core.types import latent_frames

EncodeVideos = Callable[
    [UInt8[np.ndarray, "b f y x 3"]], Float[np.ndarray, "b t h w c"]
]
EncodeText = Callable[[list[str]], list[Float[np.ndarray, "m e"]]]

# Pixels · latent frames of a batch, as in a chunk of the VAE's streaming.
_BATCH = 9 * 128 * 96
_CAPTIONS = 64  # that wait for each other


@dataclass(frozen=True)
class Encoders:
    """Functions that encode, and the sizes of their results.

    Attributes:
        videos: encodes clips of one size.
        text: encodes captions.
        channels: of the latents.
        spatial: pixels of a latent's side.
        at_once: calls of `videos` that may run at the same time.
        features: features of each token to store; None stores none.
    """

    videos: EncodeVideos
    text: EncodeText
    channels: int
    spatial: int
    at_once: int = 1
    features: TokenFeatures | None = None

    def texts(self, captions: list[str]) -> list[np.ndarray]:
        """Returns embeddings; raises UserError for any other result."""
        embeddings = [np.asarray(embedding) for embedding in self.text(captions)]
        for caption, embedding in zip(captions, embeddings, strict=True):
            if embedding.ndim != 2 or not len(embedding):
                raise UserError(
                    f"the text encoder made {embedding.shape} of {caption!r}, expected "
                    "(M, E) with M of at least 1"
                )
        return embeddings

    def latents(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the latents of clips; raises UserError for any other result."""
        count, height, width = clips[0].shape[:3]
        latents = np.asarray(self.videos(np.stack(clips)))
        expected = (
            len(clips),
            latent_frames(count, transforms.TEMPORAL),
            height // self.spatial,
            width // self.spatial,
            self.channels,
        )
        if latents.shape != expected:
            raise UserError(
                f"the VAE made {latents.shape[1:]} of {clips[0].shape}, expected "
                f"{expected[1:]}"
            )
        return latents


class Batches:
    """Clips and captions that are encoded in batches of one size.

    A batch is full, or has one clip: a program is compiled for each size of a batch.
    Which clips share a batch depends on the order of the calls only.
    """

    def __init__(self, encode: Encoders, pool: ThreadPoolExecutor):
        self._encode, self._pool = encode, pool
        self._clips: dict[tuple[int, ...], list[tuple[np.ndarray, Future]]] = {}
        self._captions: list[tuple[str, Future]] = []
        self._running: deque[Future] = deque()

    def video(self, clip: np.ndarray) -> Future[np.ndarray]:
        """Returns the latents of a clip, which may wait for others of its size."""
        most, future = _batch_size(clip.shape), Future()
        waiting = self._clips.setdefault(clip.shape, [])
        # A view would keep the whole clip in memory.
        waiting.append((clip if most == 1 else clip.copy(), future))
        if len(waiting) >= most:
            self._begin(self._clips.pop(clip.shape))
        return future

    def text(self, caption: str) -> Future[np.ndarray]:
        """Returns the embedding of a caption, which waits for others."""
        self._captions.append((caption, future := Future()))
        if len(self._captions) >= _CAPTIONS:
            self.flush_texts()
        return future

    def flush_texts(self) -> None:
        """Encodes the captions that wait."""
        waiting, self._captions = self._captions, []
        if waiting:
            embeddings = self._encode.texts([caption for caption, _ in waiting])
            for (_, future), embedding in zip(waiting, embeddings, strict=True):
                future.set_result(embedding)

    def flush(self) -> None:
        """Encodes all that waits; the futures are done afterwards."""
        self.flush_texts()
        for waiting in self._clips.values():
            for one in waiting:
                self._begin([one])
        self._clips.clear()
        wait(self._running)

    def _begin(self, batch: list[tuple[np.ndarray, Future]]) -> None:
        # One batch more than are encoded waits, so that no encoder does.
        while len(self._running) > self._encode.at_once:
            wait([self._running.popleft()])
        self._running.append(self._pool.submit(self._run, batch))

    def _run(self, batch: list[tuple[np.ndarray, Future]]) -> None:
        try:
            latents = self._encode.latents([clip for clip, _ in batch])
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), one in zip(batch, latents, strict=True):
                future.set_result(one)


def _batch_size(shape: tuple[int, ...]) -> int:
    frames, height, width = shape[:3]
    volume = latent_frames(frames, transforms.TEMPORAL) * height * width
    return max(1, _BATCH // volume)
