#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: run.sh [--dry-run] -- VERB [ARGUMENT…]

Runs create.sh, setup.sh and launch.sh, then looks every minute until the command has
ended. When a spot TPU is taken away, it requests, sets up and starts again: a training
continues from its workdir, which must be under MOUNT. An interrupt leaves TPU and
command running. Exit status 1: the command failed. delete.sh deletes the TPU."
read_options "$@"
read_config
check_command
PATIENCE=5 # looks; a worker that is taken away dies before the queue shows it

# Sets `report` to the workers' lines of status, or to nothing if they cannot be reached.
look() {
    report=$(on_workers all status 2>/dev/null) || report=''
    if [[ $DRY_RUN ]]; then report='[worker 0] finished'; fi
}

# Succeeds if the report has this state for every worker.
all_are() { [[ -n $report ]] && ! grep -qv "^\[worker [^]]*] $1" <<<"$report"; }

# Creates, sets up and launches; succeeds if the command is running.
start() {
    "$HERE/create.sh" ${DRY_RUN:+"$DRY_RUN"} || return
    look
    if all_are running; then
        say "a command is running already; watching it"
        return
    fi
    "$HERE/setup.sh" ${DRY_RUN:+"$DRY_RUN"} || return
    "$HERE/launch.sh" ${DRY_RUN:+"$DRY_RUN"} -- "${ARGS[@]}"
}

# Looks until the command has ended; sets `ended` to how: finished, failed, preempted.
watch() {
    local state bad=0
    while true; do
        state=$(queue_state ACTIVE) || state=unknown # the network fails now and then
        case $state in
        SUSPENDING | SUSPENDED | FAILED) ended=preempted && return ;;
        ABSENT) die "$NAME was deleted; not asking for another" ;;
        esac
        look
        printf '%s %s\n%s\n' "$(date +%T)" "$state" "${report:-the workers do not answer}" >&2
        if all_are finished; then
            ended=finished && return
        elif grep -qE '^\[worker [^]]*] (failed|stopped|lost|idle)' <<<"$report"; then
            bad=$((bad + 1))
            ((bad < PATIENCE)) || { ended=failed && return; }
        else
            bad=0
        fi
        sleep 60
    done
}

launched='' tries=0
while true; do
    if start; then
        launched=1 tries=0
        watch
    else
        status=$?
        state=$(queue_state ACTIVE) || state=unknown
        case $state in
        SUSPENDING | SUSPENDED | FAILED)
            # A request that never succeeded, for quota or time, is not repeated.
            [[ $launched || $state != FAILED ]] || exit "$status"
            ended=preempted
            ;;
        *) # a mistake, or a passing fault of a command that ran before
            tries=$((tries + 1))
            [[ $launched ]] && ((tries < PATIENCE)) || exit "$status"
            sleep 60
            continue
            ;;
        esac
    fi
    case $ended in
    finished)
        say "finished; delete.sh gives the TPU back"
        exit 0
        ;;
    failed)
        echo "run.sh: the command has ended and $NAME is there; see logs.sh" >&2
        exit 1
        ;;
    preempted)
        [[ $CAPACITY == spot ]] || die "$NAME is gone though it is $CAPACITY; see status.sh"
        say "$NAME was taken away; asking for another"
        sleep 60
        ;;
    esac
done
