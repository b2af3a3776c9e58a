"""worker.sh run in earnest, in the homes of two workers."""

import os
import signal
import subprocess
import time

import pytest

from tests.tpu_scripts.conftest import FAKES

AWKWARD = [
    "it's",
    'a "b" $HOME `id`',
    "new\nline",
    "",
    "*",
    "a  b",
    "--set",
    "x=(1, 2)",
]


@pytest.fixture
def ready(cloud):
    """Two workers that are set up; what is left running at the end is ended."""
    for folder in ("configs", "my_dataset"):
        (cloud.root / "repo" / folder).mkdir()
        cloud.file(f"repo/{folder}/new.py", "not in git, but here")
    cloud.file("repo/configs/größe 2.py", "git quotes such names")
    (cloud.root / "repo/soraxla/cli/export.py").unlink()  # in git, but not here
    cloud.file("repo/tpu_scripts/ignored.pyc", "")
    cloud.file("repo/.gitignore", "config.sh\n*.pyc\n")
    cloud.ok("setup.sh")
    yield cloud
    for worker in (0, 1):
        (cloud.home(worker) / "then").write_text("0")


def launch(cloud, *words):
    cloud.ok("launch.sh", "--", *words)
    for worker in (0, 1):
        wait_for(lambda w=worker: (cloud.home(w) / "words").exists())


def wait_for(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(cloud, worker, status):
    (cloud.home(worker) / "then").write_text(str(status))
    wait_for((cloud.home(worker) / "soraxla/run/ended").exists)


def state(cloud):
    return cloud.ok("status.sh").stdout.splitlines()[1:]


def test_setup_brings_the_checkout_and_the_bucket_to_every_worker(ready):
    for worker in (0, 1):
        home = ready.home(worker)
        source = home / "soraxla/source"
        assert (source / "configs/new.py").exists()
        assert (source / "configs/größe 2.py").exists()
        assert not (source / "my_dataset").exists()
        assert (source / "tpu_scripts/run.sh").exists()
        assert not (source / "tpu_scripts/ignored.pyc").exists()
        assert (home / "mounted").read_text().split()[-2:] == [
            "my-bucket",
            str(ready.bucket),
        ]
        uv = (home / "uv").read_text().splitlines()
        assert uv[0].startswith("venv ") and "--python 3.12" in uv[0]
        assert uv[1].endswith(f"--editable {source}[tpu]")


def test_setup_again_installs_what_has_changed(ready):
    ready.file("repo/configs/new.py", "changed")
    ready.ok("setup.sh")
    for worker in (0, 1):
        home = ready.home(worker)
        assert (home / "soraxla/source/configs/new.py").read_text() == "changed"
        assert len((home / "mounted").read_text().splitlines()) == 1
        assert [line.split()[0] for line in (home / "uv").read_text().splitlines()] == [
            "venv",
            "pip",
            "pip",
        ]


def test_words_reach_the_command_as_they_were_typed(ready):
    launch(ready, "prepare", *AWKWARD)
    for worker in (0, 1):
        home = ready.home(worker)
        cwd, *words = (home / "words").read_text().split("\0")[:-1]
        assert cwd == str(home / "soraxla/source") and words == ["prepare", *AWKWARD]


def test_a_dry_run_can_be_pasted_into_a_shell(ready):
    """A shell that runs the printed lines gives the worker the same words."""
    words = ("--", "prepare", *AWKWARD)
    before = len(ready.calls())
    ready.ok("launch.sh", *words)
    [call] = ready.calls()[before:]
    line = ready.ok("launch.sh", "--dry-run", *words).stdout.replace(
        "gcloud", "printf '%s\\0'", 1
    )
    said = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True
    )
    assert said.stdout.split("\0")[:-1] == call


def test_the_states_of_a_worker(ready):
    assert state(ready) == ["[worker 0] idle", "[worker 1] idle"]
    launch(ready, "prepare")
    wait_for(lambda: state(ready)[1] == "[worker 1] running: step 2")
    end(ready, 0, 0)
    end(ready, 1, 2)
    assert state(ready) == [
        "[worker 0] finished: step 2",
        "[worker 1] failed with status 2: step 2",
    ]
    ended = ready.home(0) / "soraxla/run/ended"
    ended.unlink()  # a reboot
    assert state(ready)[0] == "[worker 0] lost: step 2"


def test_logs_have_lines_with_their_worker(ready):
    launch(ready, "prepare", "my words")
    for worker in (0, 1):
        end(ready, worker, 0)
    lines = ready.ok("logs.sh").stdout.splitlines()
    for worker in (0, 1):
        own = [line for line in lines if line.startswith(f"[worker {worker}] ")]
        assert own[0].endswith(" soraxla prepare my words")
        assert own[1:] == [f"[worker {worker}] step 1", f"[worker {worker}] step 2"]


@pytest.mark.slow
def test_logs_are_followed_until_the_command_ends(ready):
    launch(ready, "prepare")
    end(ready, 1, 0)
    home = ready.home(0)
    environment = {**os.environ, "HOME": str(home)}
    follow = subprocess.Popen(
        ["bash", str(home / "soraxla-worker.sh"), "logs"],
        env={**environment, "PATH": f"{FAKES}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout is not None
    wait_for(lambda: "step 2" in follow.stdout.readline())
    assert follow.poll() is None
    end(ready, 0, 0)
    assert follow.wait(timeout=20) == 0
    follow.stdout.close()


def test_a_command_that_is_stopped_saves_and_is_not_finished(ready):
    launch(ready, "prepare")
    stopped = ready.ok("stop.sh").stdout.splitlines()
    assert stopped == ["[worker 0] stopped: saved", "[worker 1] stopped: saved"]


def test_two_commands_do_not_run_at_once(ready):
    launch(ready, "prepare")
    for script, words in (("launch.sh", ("--", "prepare")), ("setup.sh", ())):
        done = ready.run(script, *words)
        assert done.returncode == 1
        assert "a command is running; stop.sh ends it" in done.stderr


def test_a_profile_asks_the_command_and_nobody_else(ready):
    """SIGUSR1 ends a process that does not listen yet; here nothing listens."""
    launch(ready, "prepare")
    ready.ok("profile.sh", "all")
    time.sleep(0.2)
    assert [line.split(":")[0] for line in state(ready)] == [
        "[worker 0] running",
        "[worker 1] running",
    ]
    pid = int((ready.home(0) / "soraxla/run/pid").read_text())
    assert os.getpgid(pid) == pid != os.getpgid(0)
    assert signal_is_ignored(pid, signal.SIGUSR1)


def signal_is_ignored(pid, number):
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        [mask] = [line.split()[1] for line in lines if line.startswith("SigIgn")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_launch_mounts_the_bucket_again_after_a_reboot(ready):
    for worker in (0, 1):
        (ready.home(worker) / "mounted").unlink()
    launch(ready, "prepare")
    assert (ready.home(1) / "mounted").exists()


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("launch.sh", ("--", "prepare"), "soraxla is not installed; run setup.sh"),
        ("stop.sh", (), "no command is running"),
        ("profile.sh", (), "no command is running"),
        ("logs.sh", (), "no command was launched here"),
    ],
)
def test_what_is_asked_too_early_is_one_line(cloud, script, words, message):
    worker = (cloud.root / "repo/tpu_scripts/worker.sh").read_bytes()
    (cloud.home(0) / "soraxla-worker.sh").write_bytes(worker)
    done = cloud.run(script, *words)
    assert done.returncode == 1 and done.stderr == f"[worker 0] {message}\n"
