#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: launch.sh [--dry-run] -- VERB [ARGUMENT…]

Starts 'soraxla VERB ARGUMENT…' on every worker and returns; the command runs on when
the connection ends. It runs in the folder of the source; data and workdir belong under
MOUNT. For example:

    launch.sh -- train --config dit:s --data /mnt/bucket/data/clips \\
        --workdir /mnt/bucket/runs/dit"
read_options "$@"
read_config
check_command
on_workers all launch "$BUCKET" "$MOUNT" "${ARGS[@]}"
