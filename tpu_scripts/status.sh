#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: status.sh [--dry-run]

Prints the queued resource's state, its messages, and a line per worker: idle, running,
finished, failed, stopped (by stop.sh) or lost (rebooted), and its last output."
read_options "$@"
no_arguments
read_config
state=$(queue_state ACTIVE)
[[ $DRY_RUN ]] || echo "$NAME ($ACCELERATOR, $CHIPS chips, $CAPACITY, $ZONE): $state"
if [[ $state == ACTIVE ]]; then
    on_workers all status
elif [[ $state != ABSENT ]]; then
    run gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
        --format='yaml(state)'
fi
