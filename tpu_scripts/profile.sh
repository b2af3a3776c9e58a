#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: profile.sh [--dry-run] [WORKER]

Makes the training on one worker (0), on WORKER, or on 'all', trace its next 5 steps
into WORKDIR/profile. Fetch it with copy.sh and look at it with xprof."
read_options "$@"
((${#ARGS[@]} <= 1)) || die "expected one WORKER at most; see --help"
read_config
on_workers "${ARGS[0]:-0}" profile
