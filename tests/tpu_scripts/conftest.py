"""The scripts in a separate git repository, with a gcloud that only takes notes."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "tpu_scripts"
FAKES = Path(__file__).parent / "fakes"
CONFIG = {
    "PROJECT": "my-project",
    "ZONE": "us-central1-a",
    "NAME": "tpu",
    "ACCELERATOR": "v5litepod-8",
    "CAPACITY": "spot",
    "BUCKET": "my-bucket",
    "SERVICE_ACCOUNT": "worker@my-project.iam.gserviceaccount.com",
}


@dataclass(frozen=True)
class Cloud:
    """A folder with the scripts, the fakes' notes and answers, and two workers."""

    root: Path

    @property
    def bucket(self) -> Path:
        return self.root / "bucket"

    def home(self, worker: int) -> Path:
        return self.root / "workers" / str(worker)

    def config(self, **changes: str) -> None:
        values = {**CONFIG, "MOUNT": str(self.bucket), **changes}
        lines = [f"{name}={value}\n" for name, value in values.items()]
        self.file("repo/tpu_scripts/config.sh", "".join(lines))

    def file(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def states(self, *states: str) -> None:
        """Sets the states of the queued resource, one per look; the last stays."""
        self.file("states", "".join(f"{state}\n" for state in states))

    def answers(self, *reports: str) -> None:
        """Sets the answers of the workers, one per look; the last stays."""
        self.file("answers", "".join(f"{report}\n" for report in reports))

    def run(self, script: str, *words: str, **environment: str):
        path = f"{FAKES}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(self.root / "repo" / "tpu_scripts" / script), *words],
            env={**os.environ, "PATH": path, "FAKE": str(self.root), **environment},
            capture_output=True,
            text=True,
            timeout=20,
        )

    def ok(self, script: str, *words: str):
        done = self.run(script, *words)
        assert done.returncode == 0, done.stderr
        return done

    def refused(self, script: str, *words: str, **environment: str) -> str:
        """The one line that a script says of a mistake."""
        done = self.run(script, *words, **environment)
        assert done.returncode == 2 and done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith(f"{script}: ")
        return line

    def calls(self) -> list[list[str]]:
        """The words of every call of gcloud."""
        log = self.root / "calls"
        words = log.read_text(encoding="utf-8").split("\0") if log.exists() else [""]
        calls, at = [], 0
        while words[at]:
            end = at + 1 + int(words[at])
            calls.append(words[at + 1 : end])
            at = end
        return calls

    def verbs(self) -> list[str]:
        """The calls in short: create, scp …; for ssh, the worker's command."""
        return [short(words) for words in self.calls()]


def short(words: list[str]) -> str:
    if words[0] == "compute" and words[3] == "ssh":
        [command] = [w for w in words if w.startswith("--command=")]
        return command.split()[2]
    return words[3] if words[0] == "compute" else " ".join(words[:2])


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    repo = tmp_path / "repo"
    shutil.copytree(SCRIPTS, repo / "tpu_scripts")
    (repo / "tpu_scripts" / "config.sh").unlink(missing_ok=True)
    (repo / "soraxla" / "cli").mkdir(parents=True)
    for verb in ("train", "prepare", "export"):
        (repo / "soraxla" / "cli" / f"{verb}.py").touch()
    (repo / ".gitignore").write_text("config.sh\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(repo)], check=True)
    subprocess.run(["git", "-C", str(repo), "add", "."], check=True)
    for worker in (0, 1):
        made.home(worker).mkdir(parents=True)
    made.bucket.mkdir()
    made.config()
    made.states("ACTIVE")
    return made
