#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: launch.sh [--dry-run] -- VERB [ARGUMENT…]

Starts 'soraxla VERB ARGUMENT…' on every worker and returns; it runs on when the
connection ends. The folder it runs in is the source's, so configs/ is there; data and
workdir belong under MOUNT. For example:

    launch.sh -- train --config configs/dit.py:s --data /mnt/bucket/data/clips \\
        --workdir /mnt/bucket/runs/dit"
read_options "$@"
read_config
check_command
on_workers all launch "$BUCKET" "$MOUNT" "${ARGS[@]}"
