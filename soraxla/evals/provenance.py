"""Versions of the code that made a measurement."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("soraxla", "jax", "jaxlib", "numpy", "scipy", "flax")


def provenance() -> dict[str, Any]:
    """Returns the versions of packages, and this checkout's commit."""
    packages = {name: _version(name) for name in _PACKAGES}
    return {"packages": packages, "commit": _commit()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Returns this checkout's commit, with "+" if it has changes; None without one."""
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    try:
        # A copy that is installed inside another project does not belong to it.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", here.name],
            capture_output=True,
            check=True,
        )
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + "+" * bool(changes.stdout.strip())
