#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: delete.sh [--dry-run]

Deletes the TPU and its queued resource, which ends their cost. It does not save a
training that runs there; stop.sh does. The bucket stays."
read_options "$@"
no_arguments
read_config
# --force deletes the TPU with the queued resource.
run gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet
