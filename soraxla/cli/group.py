"""The options of commands that several processes run together."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --processes and --process-id."""
    group = parser.add_argument_group(
        "several processes", "found by themselves on Cloud TPUs, Slurm and Open MPI"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--processes", type=int, metavar="N", help="in all")
    group.add_argument("--process-id", type=int, metavar="I", help="this one, from 0")


def join_group(args: argparse.Namespace) -> None:
    """Joins the processes, if there are several, before JAX is asked for devices.

    Raises:
        UserError: as `parallel.cluster.find_group` and `parallel.rendezvous.join`.
    """
    from soraxla.parallel.cluster import find_group
    from soraxla.parallel.rendezvous import join

    group = find_group(args.coordinator, args.processes, args.process_id)
    if group is not None:
        join(group)
