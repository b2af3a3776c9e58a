"""A train step of the model of worlds, of this checkout against another commit's.

    python -m benchmarks.step_commits --before CHECKOUT [--rounds N] [--json FILE]

The step is that of `benchmarks/checkout.py`: 6 layers of width 192, 40 pictures in one
row, fp32.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import ROOT, Contender, Peer, race, ratio, write_report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, required=True, help="a checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the report is written")
    arguments = parser.parse_args()
    sides = {"before": arguments.before.resolve(), "after": ROOT}
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for side, root in sides.items():
            peer = Peer(
                sys.executable,
                "benchmarks.checkout",
                ["step"],
                root=root,
            )
            stack.enter_context(peer)
            for optimizer in ("AdamW", "Muon"):
                contenders[f"{optimizer}, {side}"] = peer.case(optimizer)
        timings = race(contenders, rounds=arguments.rounds)
    results = {
        f"{optimizer}, after over before": ratio(
            timings[f"{optimizer}, before"], timings[f"{optimizer}, after"]
        )
        for optimizer in ("AdamW", "Muon")
    }
    write_report(arguments.json, results, timings=timings)


if __name__ == "__main__":
    main()
