"""Eight fake CPU devices, quick compiles, strict ranks, and small shared fixtures."""

import functools
import gc
import os
import shutil
import tempfile

import pytest

# Compiling takes most of the tests' time. Code is compiled fast and runs slowly, and
# the workers, and the processes that tests start, share what they have compiled.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.mkdtemp(prefix="soraxla_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# A program's operations remember no place in the source: a tenth of the compile time.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

from soraxla.core.allocator import keep_freed_pages  # noqa: E402

keep_freed_pages()

import jax  # noqa: E402
import jaxtyping  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


# Tracing makes many small objects, few of which are garbage.
gc.set_threshold(50_000, 20, 20)


# A check takes longer than most calls of a simulator. A function that is called often
# is checked at its first ALWAYS calls, and then at one in OFTEN.
ALWAYS, OFTEN = 100, 20


def checked_once(jaxtyped):
    """Returns a `jaxtyped` that makes few checkers.

    Making one takes longer than most functions do. A function's is made at its first
    call, as no test file calls all. A nested function is decorated whenever its `def`
    runs, so only its first closure is checked.
    """
    seen = set()

    def decorator(*, typechecker):
        check = jaxtyped(typechecker=typechecker)

        def decorate(function):
            code = getattr(function, "__code__", None)
            if code in seen:
                return function
            if code is None:
                return check(function)
            if "<locals>" in function.__qualname__:
                seen.add(code)
                return check(function)
            return checked_when_called(function, check)

        return decorate

    return decorator


def checked_when_called(function, check):
    checked, calls = None, 0

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal checked, calls
        calls += 1
        if calls > ALWAYS and calls % OFTEN:
            return function(*args, **kwargs)
        if checked is None:
            checked = check(function)
        return checked(*args, **kwargs)

    return call


# The import hook of `--jaxtyping-packages` looks the decorator up here.
jaxtyping.jaxtyped = checked_once(jaxtyping.jaxtyped)


def pytest_collection_finish():
    gc.freeze()  # what is imported and collected stays to the end


def pytest_unconfigure():
    if COMPILED is not None:  # in the process that made it, after its workers
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """The shapes of a model's parameters are traced once a configuration.

    Every folder that is loaded asks for them.
    """
    from soraxla.models import captioner, dit, vae
    from soraxla.models.text import bert, clip, clip_vision, t5

    with pytest.MonkeyPatch.context() as patch:
        for model in (captioner, dit, vae, bert, clip, clip_vision, t5):
            patch.setattr(model, "init", jax.jit(model.init, static_argnames="cfg"))
        yield


@pytest.fixture
def store(monkeypatch):
    """The objects of gs://bucket, an object store in memory; see `FakeStore`."""
    from tests.fake_store import installed

    return installed(monkeypatch)


@pytest.fixture
def lossless(monkeypatch):
    """Gives task contexts the VAE of `tests.lossless`."""
    from tests.lossless import decode_stream, encode

    monkeypatch.setattr("soraxla.generation.context.encode_clip", encode)
    monkeypatch.setattr("soraxla.generation.context.decode_stream", decode_stream)
