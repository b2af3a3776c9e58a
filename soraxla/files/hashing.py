"""SHA-256 hashes of parameter trees and of folders of files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from soraxla.core.trees import named_leaves
from soraxla.parallel.multihost import fetch


def sha256_of_tree(tree: PyTree) -> str:
    """Returns one hash of the names, types, shapes and bytes of the leaves.

    The host holds one leaf at a time. All processes must call it, since leaves may be
    sharded over them.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(tree).items()):
        array = fetch(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Returns one hash of the names and bytes of files, in any order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
