"""The last line of a command: what to type next."""

import shlex
import sys


def say_next(*words: object) -> None:
    """Prints the next command to stderr, since scripts read stdout."""
    print(f"next: {shlex.join(map(str, words))}", file=sys.stderr)


def say_generate(checkpoint: object) -> None:
    """Prints the command that generates with a model."""
    words = ("--checkpoint", checkpoint, "--prompt", "…", "--out", "video.mp4")
    say_next("soraxla", "generate", *words)


def say_prepare(vae: object) -> None:
    """Prints the command that encodes media by a VAE."""
    words = ("--source", "MEDIA", "--vae", vae, "--out", "DATASET")
    say_next("soraxla", "prepare", *words)
