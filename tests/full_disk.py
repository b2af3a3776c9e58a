"""A disk that is full, for the files of one block: none may grow beyond some bytes."""

import contextlib
import resource


@contextlib.contextmanager
def no_file_above(size):
    """A write beyond `size` bytes of a file fails, as one on a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
