#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: stop.sh [--dry-run]

Asks the command on every worker to end and waits for it; a training saves first."
read_options "$@"
no_arguments
read_config
on_workers all stop
