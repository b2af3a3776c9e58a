#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: logs.sh [--dry-run] [WORKER]

Follows the output of every worker, or of WORKER (a number), until the command ends;
each line begins with its worker."
read_options "$@"
((${#ARGS[@]} <= 1)) || die "expected one WORKER at most; see --help"
read_config
on_workers "${ARGS[0]:-all}" logs
