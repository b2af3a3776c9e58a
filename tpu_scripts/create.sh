#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: create.sh [--dry-run]

Requests the TPU of the configuration as a queued resource and waits until it is ACTIVE.
After an interrupt, run it again to go on waiting. A resource that is SUSPENDED (taken
away) or FAILED is deleted and requested again. Exit status 3: it FAILED in the queue."
read_options "$@"
no_arguments
read_config

create() {
    local flags=()
    [[ $CAPACITY == on-demand ]] || flags+=("--$CAPACITY")
    [[ -z ${WAIT_AT_MOST:-} ]] || flags+=("--valid-until-duration=$WAIT_AT_MOST")
    say "asking for $ACCELERATOR: $CHIPS chips, $CAPACITY, in $ZONE"
    run gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" \
        "--node-id=$NAME" "--accelerator-type=$ACCELERATOR" \
        "--runtime-version=$RUNTIME" "--service-account=$SERVICE_ACCOUNT" \
        ${flags[@]+"${flags[@]}"}
}

state=$(queue_state ABSENT)
while [[ $state == SUSPENDING || $state == DELETING ]]; do
    sleep 30
    state=$(queue_state ABSENT)
done
if [[ $state == SUSPENDED || $state == FAILED ]]; then
    say "$NAME is $state; deleting it"
    "$HERE/delete.sh"
    state=ABSENT
fi
if [[ $state == ABSENT ]]; then
    create
    state=$(queue_state ACTIVE)
fi
shown=''
while [[ $state != ACTIVE ]]; do
    if [[ $state == ABSENT ]]; then
        die "$NAME was deleted while it waited; run create.sh to ask for it again"
    elif [[ $state == FAILED || $state == SUSPENDED ]]; then
        echo "create.sh: $NAME is $state; 'status.sh' says why" >&2
        exit 3
    fi
    [[ $state == "$shown" ]] || say "$NAME is $state"
    shown=$state
    sleep 30
    state=$(queue_state ACTIVE) || state=unknown # the network fails now and then
done
say "$NAME is ACTIVE"
