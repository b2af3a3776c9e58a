"""run.sh: starts, watches, and asks for another TPU when one is taken away."""

import pytest

TRAIN = ("--", "train", "--workdir")
RUNNING = "[worker 0] running: 10%|[worker 1] running: 10%"
FINISHED = "[worker 0] finished: 100%|[worker 1] finished: 100%"
HALF = "[worker 0] finished: 100%|[worker 1] running: 99%"
FAILED = "[worker 0] running: 50%|[worker 1] failed with status 2: no such file"
START = ["describe", "status", "scp", "setup", "launch"]  # of a TPU that is ACTIVE
LOOK = ["describe", "status"]


def run(cloud, *, capacity="spot"):
    cloud.config(SOURCE="https://example.com/it.git", CAPACITY=capacity)
    return cloud.run("run.sh", *TRAIN, f"{cloud.bucket}/runs/dit")


def test_a_run_ends_when_every_worker_has_finished(cloud):
    cloud.states("ABSENT", "ACTIVE")
    cloud.answers("UNREACHABLE", RUNNING, HALF, "UNREACHABLE", FINISHED)
    done = run(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == [
        *["describe", "create", *START],
        *[verb for _ in range(4) for verb in LOOK],
    ]
    assert "the workers do not answer" in done.stderr


@pytest.mark.parametrize("gone", ["SUSPENDED", "FAILED", "SUSPENDING"])
def test_a_spot_tpu_that_is_taken_away_is_replaced_and_started_again(cloud, gone):
    cloud.states("ABSENT", "ACTIVE", "ACTIVE", gone, "SUSPENDED", "ACTIVE")
    cloud.answers("UNREACHABLE", RUNNING, "UNREACHABLE", FINISHED)
    done = run(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == [
        *["describe", "create", *START, *LOOK],
        *["describe", "describe", "delete", "create", *START, *LOOK],
    ]
    launches = [call for call in cloud.calls() if "launch" in call[-1]]
    assert len(launches) == 2 and launches[0] == launches[1]
    assert "tpu was taken away; asking for another" in done.stderr


def test_a_tpu_that_is_taken_away_before_the_launch_is_replaced(cloud):
    """Copying to the workers fails, and the queue says why."""
    cloud.states("ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE")
    cloud.answers("UNREACHABLE", "UNREACHABLE", FINISHED)
    cloud.file("scp", "fails\nworks\n")
    done = run(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == [
        *["describe", "status", "scp", "describe", "describe", "delete", "create"],
        *[*START, *LOOK],
    ]


def test_a_tpu_that_is_never_given_is_not_asked_for_for_ever(cloud):
    cloud.states("ABSENT", "WAITING_FOR_RESOURCES", "FAILED")
    done = run(cloud)
    assert done.returncode == 3 and "tpu is FAILED" in done.stderr
    assert cloud.verbs().count("create") == 1


def test_a_setup_that_has_worked_before_is_tried_again(cloud):
    cloud.states("ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE")
    cloud.answers("UNREACHABLE", "UNREACHABLE", "UNREACHABLE", FINISHED)
    cloud.file("scp", "works\nfails\nworks\n")
    done = run(cloud)
    assert done.returncode == 0, done.stderr
    again = ["describe", "status", "scp", "describe"]  # create.sh, and why it failed
    assert cloud.verbs() == [
        *[*START, "describe", "describe", "delete", "create", *again],
        *[*START, *LOOK],
    ]


def test_a_setup_that_never_worked_ends_the_run(cloud):
    cloud.answers("UNREACHABLE")
    cloud.file("scp", "fails\n")
    assert run(cloud).returncode == 1
    assert cloud.verbs() == ["describe", "status", "scp", "describe"]


def test_only_spot_is_replaced(cloud):
    cloud.states("ACTIVE", "SUSPENDED")
    cloud.answers("UNREACHABLE")
    done = run(cloud, capacity="reserved")
    assert done.returncode == 2 and "gone though it is reserved" in done.stderr
    assert "create" not in cloud.verbs() and "delete" not in cloud.verbs()


def test_a_tpu_that_somebody_deletes_is_not_replaced(cloud):
    cloud.states("ACTIVE", "ABSENT")
    cloud.answers("UNREACHABLE")
    done = run(cloud)
    assert done.returncode == 2 and "was deleted; not asking for another" in done.stderr
    assert "create" not in cloud.verbs()


def test_a_command_that_fails_ends_the_run_after_five_looks(cloud):
    """Not at once: workers that are taken away fail before the queue says so."""
    cloud.answers("UNREACHABLE", RUNNING, FAILED)
    done = run(cloud)
    assert done.returncode == 1 and "no such file" in done.stderr
    assert cloud.verbs() == [*START, *[verb for _ in range(6) for verb in LOOK]]


def test_a_network_that_fails_for_a_while_changes_nothing(cloud):
    cloud.states("ACTIVE", "OFFLINE", "OFFLINE", "ACTIVE")
    cloud.answers("UNREACHABLE", "UNREACHABLE", "UNREACHABLE", FINISHED)
    done = run(cloud)
    assert done.returncode == 0
    assert cloud.verbs() == [*START, *LOOK, *LOOK, *LOOK]


def test_run_again_it_watches_the_command_that_is_running(cloud):
    cloud.answers(RUNNING, FINISHED)
    assert run(cloud).returncode == 0
    assert cloud.verbs() == ["describe", "status", *LOOK]


def test_a_mistake_in_the_request_ends_the_run(cloud):
    cloud.states("OFFLINE")
    assert run(cloud).returncode == 1
    assert cloud.verbs() == ["describe", "describe"]
