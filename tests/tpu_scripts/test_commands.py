"""Every script's calls of gcloud, its dry run, and its errors on bad input."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tpu_scripts.conftest import FAKES, SCRIPTS

WHERE = ["--project=my-project", "--zone=us-central1-a"]
TPU = ["compute", "tpus"]
ACCOUNT = "worker@my-project.iam.gserviceaccount.com"
LOOK = [*TPU, "queued-resources", "describe", "tpu", *WHERE]
STATE = [*LOOK, "--format=value(state.state)"]
CREATE = [
    *[*TPU, "queued-resources", "create", "tpu", *WHERE, "--node-id=tpu"],
    "--accelerator-type=v5litepod-8",
    "--runtime-version=v2-alpha-tpuv5-lite",
    f"--service-account={ACCOUNT}",
]
DELETE = [*TPU, "queued-resources", "delete", "tpu", *WHERE, "--force", "--quiet"]
VERBS = ["project", "create", "setup", "launch", "run", "status", "logs"]
VERBS += ["profile", "stop", "copy", "delete"]
WORDS = {
    "launch": ("--", "prepare", "--source", "samples"),
    "run": ("--", "prepare", "--source", "samples"),
    "copy": ("runs/dit", "results"),
}


def ssh(worker, command):
    where = [*TPU, "tpu-vm", "ssh", "tpu", *WHERE, f"--worker={worker}"]
    return [*where, f"--command=bash soraxla-worker.sh {command}"]


# --- The commands -----------------------------------------------------------------


def test_a_project_gets_apis_a_bucket_and_an_account(cloud):
    cloud.file("empty", "")
    cloud.ok("project.sh")
    bucket, project = "gs://my-bucket", "--project=my-project"
    apis = [f"{name}.googleapis.com" for name in ("tpu", "compute", "storage", "iam")]
    assert cloud.calls() == [
        ["services", "enable", *apis, project],
        ["storage", "buckets", "describe", bucket, project],
        [
            *["storage", "buckets", "create", bucket, project],
            *["--location=us-central1", "--uniform-bucket-level-access"],
            "--enable-hierarchical-namespace",
        ],
        ["iam", "service-accounts", "describe", ACCOUNT, project],
        ["iam", "service-accounts", "create", "worker", project],
        [
            *["storage", "buckets", "add-iam-policy-binding", bucket, project],
            *[f"--member=serviceAccount:{ACCOUNT}", "--role=roles/storage.objectUser"],
        ],
    ]


def test_what_a_project_has_is_not_made_again(cloud):
    cloud.ok("project.sh")
    assert not [call for call in cloud.calls() if "create" in call]


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"CAPACITY": "spot"}, ["--spot"]),
        ({"CAPACITY": "reserved"}, ["--reserved"]),
        ({"CAPACITY": "on-demand"}, []),
        ({"WAIT_AT_MOST": "6h"}, ["--spot", "--valid-until-duration=6h"]),
    ],
)
def test_a_tpu_is_asked_for_and_waited_for(cloud, changes, flags):
    cloud.config(**changes)
    cloud.states("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    cloud.ok("create.sh")
    assert cloud.calls() == [STATE, [*CREATE, *flags], STATE, STATE, STATE]


@pytest.mark.parametrize(
    ("accelerator", "runtime", "chips"),
    [
        ("v5litepod-1", "v2-alpha-tpuv5-lite", 1),
        ("v5p-8", "v2-alpha-tpuv5", 4),
        ("v5p-128", "v2-alpha-tpuv5", 64),
        ("v5p-12288", "v2-alpha-tpuv5", 6144),
        ("v6e-64", "v2-alpha-tpuv6e", 64),
    ],
)
def test_a_type_has_its_runtime_and_chips(cloud, accelerator, runtime, chips):
    cloud.config(ACCELERATOR=accelerator)
    said = cloud.ok("create.sh", "--dry-run")
    assert (
        f"--accelerator-type={accelerator} --runtime-version={runtime} " in said.stdout
    )
    assert f" {chips} chips, spot" in said.stderr


def test_a_tpu_that_is_there_is_not_asked_for_again(cloud):
    cloud.ok("create.sh")
    assert cloud.calls() == [STATE]


@pytest.mark.parametrize("gone", ["SUSPENDED", "FAILED"])
def test_a_tpu_that_is_gone_is_deleted_and_asked_for_anew(cloud, gone):
    cloud.states("SUSPENDING", gone, "ACTIVE")
    cloud.ok("create.sh")
    assert cloud.calls() == [STATE, STATE, DELETE, [*CREATE, "--spot"], STATE]


def test_a_request_that_fails_in_the_queue_is_status_3(cloud):
    cloud.states("ABSENT", "WAITING_FOR_RESOURCES", "FAILED")
    done = cloud.run("create.sh")
    assert done.returncode == 3 and "tpu is FAILED" in done.stderr


def test_a_broken_network_is_not_taken_for_a_tpu_that_is_absent(cloud):
    cloud.states("OFFLINE")
    done = cloud.run("create.sh")
    assert done.returncode == 1 and "network is unreachable" in done.stderr
    assert cloud.calls() == [STATE]


def test_a_network_that_fails_while_waiting_is_waited_out(cloud):
    cloud.states("WAITING_FOR_RESOURCES", "OFFLINE", "ACTIVE")
    cloud.ok("create.sh")
    assert cloud.calls() == [STATE, STATE, STATE]


def test_setup_from_git_names_repository_and_revision(cloud):
    cloud.config(SOURCE="https://example.com/it.git", SOURCE_REF="v1")
    said = cloud.ok("setup.sh", "--dry-run").stdout.splitlines()
    assert [shlex.split(line)[1:] for line in said] == [
        [
            *[*TPU, "tpu-vm", "scp", str(cloud.root / "repo/tpu_scripts/worker.sh")],
            *["tpu:soraxla-worker.sh", *WHERE, "--worker=all"],
        ],
        ssh("all", f"setup my-bucket {cloud.bucket} https://example.com/it.git v1"),
    ]


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_setup_of_an_archive_without_git_is_refused(cloud, words):
    """Else the workers would get an archive of nothing."""
    shutil.rmtree(cloud.root / "repo" / ".git")
    line = cloud.refused("setup.sh", *words)
    assert "repo is no git checkout of yours" in line and "set SOURCE" in line
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("script", "words", "call"),
    [
        ("logs.sh", (), ssh("all", "logs")),
        ("logs.sh", ("3",), ssh("3", "logs")),
        ("profile.sh", (), ssh("0", "profile")),
        ("profile.sh", ("all",), ssh("all", "profile")),
        ("stop.sh", (), ssh("all", "stop")),
        ("delete.sh", (), DELETE),
    ],
)
def test_small_scripts(cloud, script, words, call):
    cloud.answers("")
    cloud.ok(script, *words)
    assert cloud.calls() == [call]


def test_status_shows_the_queue_and_the_workers(cloud):
    cloud.answers("[worker 0] running: 1%|[worker 1] running: 1%")
    assert cloud.ok("status.sh").stdout.splitlines() == [
        "tpu (v5litepod-8, 8 chips, spot, us-central1-a): ACTIVE",
        "[worker 0] running: 1%",
        "[worker 1] running: 1%",
    ]
    cloud.states("FAILED")
    cloud.ok("status.sh")
    assert cloud.calls()[-2:] == [STATE, [*LOOK, "--format=yaml(state)"]]


@pytest.mark.parametrize(
    "folder",
    ["runs/my run", "{bucket}/runs/my run", "gs://my-bucket/runs/my run"],
)
def test_results_come_back_into_a_folder_that_is_made(cloud, tmp_path, folder):
    to = tmp_path / "new folder" / "dit"
    cloud.ok("copy.sh", folder.format(bucket=cloud.bucket), str(to))
    assert to.is_dir()
    command = ["storage", "rsync", "--recursive", "gs://my-bucket/runs/my run"]
    assert cloud.calls() == [[*command, str(to), "--project=my-project"]]


# --- Dry runs and help ------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_prints_the_commands_and_runs_none(cloud, verb):
    cloud.states("ABSENT")
    cloud.file("empty", "")
    before = sorted(cloud.root.rglob("*"))
    said = cloud.ok(f"{verb}.sh", "--dry-run", *WORDS.get(verb, ()))
    assert cloud.calls() == [] and sorted(cloud.root.rglob("*")) == before
    assert "gcloud" in said.stdout
    # A shell reads the lines as commands; nothing else is on stdout.
    for words in (shlex.split(line) for line in commands(said.stdout)):
        assert words[0] in ("gcloud", "bash", "mkdir")


def commands(text):
    """The commands of a dry run; a quoted word may hold line ends."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and lines[-1].count("'") % 2:
            lines[-1] += f"\n{line}"
        else:
            lines.append(line)
    return lines


def test_a_dry_run_of_everything_is_in_order(cloud):
    said = cloud.ok("run.sh", "--dry-run", *WORDS["run"])
    words = [shlex.split(line) for line in commands(said.stdout)]
    assert [w[4] for w in words if w[1] == "compute"] == [
        *["describe", "create", "describe", "ssh", "scp", "ssh", "ssh"],
        *["describe", "ssh"],
    ]
    told = [w[-1].split()[2] for w in words if w[4:5] == ["ssh"]]
    assert told == ["status", "setup", "launch", "status"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_needs_no_configuration(cloud, verb):
    (cloud.root / "repo/tpu_scripts/config.sh").unlink()
    said = cloud.ok(f"{verb}.sh", "--help").stdout
    assert said.startswith(f"usage: {verb}.sh [--dry-run]") and cloud.calls() == []


def test_every_script_is_tested_here():
    others = {"lib", "worker", "config", "config.example"}
    assert {path.stem for path in SCRIPTS.glob("*.sh")} - others == set(VERBS)


def test_the_example_lacks_only_what_nobody_can_guess(cloud):
    example = (SCRIPTS / "config.example.sh").read_text(encoding="utf-8")
    cloud.file("own.sh", example)
    config = {"TPU_CONFIG": str(cloud.root / "own.sh")}
    assert "PROJECT is not set" in cloud.refused("create.sh", **config)
    example = example.replace("PROJECT=\n", "PROJECT=p\n")
    cloud.file("own.sh", example.replace("BUCKET=\n", "BUCKET=bucket\n"))
    done = cloud.run("create.sh", "--dry-run", **config)
    assert done.returncode == 0
    assert "--service-account=soraxla-tpu@p.iam.gserviceaccount.com" in done.stdout


# --- Bad input --------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_configuration_is_one_line(cloud, verb):
    (cloud.root / "repo/tpu_scripts/config.sh").unlink()
    line = cloud.refused(f"{verb}.sh", *WORDS.get(verb, ()))
    assert "config.sh: no such file; copy" in line and cloud.calls() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PROJECT": ""}, "PROJECT is not set"),
        ({"ACCELERATOR": "v7-8"}, "'v7-8', expected v5litepod-N, v5p-N or v6e-N"),
        ({"ACCELERATOR": "v5litepod-12"}, "'v5litepod-12', expected v5litepod-N with"),
        ({"ACCELERATOR": "v5litepod-128k"}, "expected v5litepod-N with N of 1 4 8"),
        ({"ACCELERATOR": "v5p-200"}, "expected v5p-N with N of 8 16 32 64 or"),
        ({"ACCELERATOR": "v5p-x"}, "expected v5p-N with N of 8"),
        ({"ACCELERATOR": "v5p-12416"}, "up to 12288"),
        ({"CAPACITY": "cheap"}, "CAPACITY is 'cheap', expected spot, on-demand or"),
        ({"BUCKET": "gs://b"}, "BUCKET is 'gs://b', expected a bucket's name"),
        ({"NAME": "My_TPU"}, "NAME is 'My_TPU', expected small letters"),
        ({"ZONE": "us-central1"}, "ZONE is 'us-central1', expected a zone"),
        ({"MOUNT": "bucket"}, "MOUNT is 'bucket', expected an absolute path"),
    ],
)
def test_a_wrong_configuration_is_one_line(cloud, changes, message):
    cloud.config(**changes)
    assert message in cloud.refused("create.sh")
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("create.sh", ("--dryrun",), "unknown option --dryrun; see create.sh --help"),
        ("create.sh", ("now",), "takes no argument, got now"),
        ("copy.sh", ("runs",), "expected FOLDER and TO"),
        ("copy.sh", ("gs://other/runs", "x"), "FOLDER is 'gs://other/runs'"),
        ("copy.sh", ("gs://my-bucket/", "x"), "FOLDER is 'gs://my-bucket/'"),
        ("logs.sh", ("0", "1"), "expected one WORKER at most"),
        ("launch.sh", (), "no command; put it after --"),
        ("run.sh", ("--",), "no command; put it after --"),
        ("launch.sh", ("--", "trian"), "unknown command 'trian'"),
        ("launch.sh", ("train", "--config", "c"), "unknown option --config"),
        ("run.sh", ("--", "train", "--workdir", "runs/dit"), "--workdir is 'runs/dit'"),
        ("run.sh", ("--", "train", "--workdir=gs://b/r"), "--workdir is 'gs://b/r'"),
        ("launch.sh", ("--", "train", "--workdir"), "--workdir is ''"),
    ],
)
def test_wrong_words_are_one_line(cloud, script, words, message):
    assert message in cloud.refused(script, *words)
    assert cloud.calls() == []


def test_a_missing_gcloud_is_one_line(cloud, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    line = cloud.refused("create.sh", PATH=str(tmp_path / "bin"))
    assert "gcloud is not on PATH; install it" in line


# --- The scripts as text ----------------------------------------------------------


@pytest.mark.slow
def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck comes with the extra 'dev'")
    files = [*map(str, SCRIPTS.glob("*.sh")), *map(str, FAKES.iterdir())]
    flags = ["--external-sources", "--source-path=SCRIPTDIR"]
    done = subprocess.run(
        [str(shellcheck), *flags, *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_scripts_can_be_called_by_name():
    for path in SCRIPTS.glob("*.sh"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#!") == os.access(path, os.X_OK), path
