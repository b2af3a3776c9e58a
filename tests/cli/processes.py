"""Commands in separate processes, with virtual devices."""

import subprocess
import sys

from tests.training.mesh_run import free_port


def started(words, devices, *group):
    """Returns a command that has begun, with so many devices."""
    code = f"import jax; jax.config.update('jax_num_cpu_devices', {devices}); "
    code += "from soraxla.cli.main import main; import sys; sys.exit(main())"
    line = [*words.split(), *map(str, group)]
    return subprocess.Popen([sys.executable, "-c", code, *line])


def in_two_processes(words, devices):
    """Runs a command in a group of two processes, each with so many devices."""
    group = "--coordinator", f"localhost:{free_port()}", "--processes", 2
    both = [started(words, devices, *group, "--process-id", i) for i in range(2)]
    assert [process.wait() for process in both] == [0, 0]
