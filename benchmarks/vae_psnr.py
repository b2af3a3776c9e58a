"""PSNR of a VAE on media folders: posterior mean, decoded, against the pixels.

    python benchmarks/vae_psnr.py VAE FOLDER…

The score is the mean over files of the PSNR in dB, 0…255 RGB. It covers the first 17
frames and the middle 112×112 pixels of a file at most, because each shape costs a
compile.
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np

from soraxla.checkpoints.load import load_vae
from soraxla.generation.vae_streaming import decode_clip, encode_clip, psnr
from soraxla.media.read import read_frames
from soraxla.training.vae_experiment import media_files

FRAMES, SIDE = 17, 112


def window(path: Path) -> np.ndarray:
    """Returns the frames and pixels of a file that are measured."""
    clip = np.stack(list(islice(read_frames(path), FRAMES)))
    frames = 1 + (len(clip) - 1) // 4 * 4
    height, width = (min(SIDE, n // 8 * 8) for n in clip.shape[1:3])
    top, left = (clip.shape[1] - height) // 2, (clip.shape[2] - width) // 2
    return clip[:frames, top : top + height, left : left + width]


def main(checkpoint: Path, folders: list[Path]) -> None:
    vae = load_vae(checkpoint)
    for folder in folders:
        scores: dict[str, list[float]] = {"clips": [], "pictures": []}
        for path in media_files(folder):
            clip = window(path)
            latents = encode_clip(vae.params, vae.model, clip)
            score = psnr(clip, decode_clip(vae.params, vae.model, latents))
            scores["clips" if len(clip) > 1 else "pictures"].append(score)
        for kind, values in scores.items():
            if values:
                print(f"{folder}: {len(values)} {kind}, {np.mean(values):.2f} dB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]])
