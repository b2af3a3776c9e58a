# shellcheck shell=bash
# Options, configuration and commands for the scripts beside it, which read this file.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec 3>&1 # where a dry run prints, also from inside $(…)

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# Prints a line about a step to stderr, marked in a dry run.
say() {
    printf '%s%s\n' "${DRY_RUN:+dry run: }" "$*" >&2
}

# Reads the options that every script has; sets DRY_RUN, and ARGS to the words left.
read_options() {
    DRY_RUN='' ARGS=()
    while (($#)); do
        case $1 in
        -h | --help)
            printf '%s\n' "$USAGE"
            exit 0
            ;;
        --dry-run) DRY_RUN=--dry-run ;;
        --)
            ARGS+=("${@:2}")
            return
            ;;
        -*) die "unknown option $1; see ${0##*/} --help" ;;
        *) ARGS+=("$1") ;;
        esac
        shift
    done
}

no_arguments() {
    ((${#ARGS[@]} == 0)) || die "takes no argument, got ${ARGS[0]}; see --help"
}

# Reads and checks the configuration; sets its variables, RUNTIME, CHIPS and WHERE.
read_config() {
    local config=${TPU_CONFIG:-$HERE/config.sh} name
    [[ -f $config ]] ||
        die "$config: no such file; copy $HERE/config.example.sh there and edit it"
    [[ $config == */* ]] || config=./$config # else `source` looks for it on PATH
    unset PROJECT ZONE NAME ACCELERATOR CAPACITY WAIT_AT_MOST BUCKET MOUNT \
        SERVICE_ACCOUNT SOURCE SOURCE_REF
    # shellcheck source=config.example.sh
    source "$config"
    for name in PROJECT ZONE NAME ACCELERATOR CAPACITY BUCKET MOUNT SERVICE_ACCOUNT; do
        [[ -n ${!name:-} ]] || die "$config: $name is not set; set it there"
    done
    expect NAME '^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$' 'small letters, digits and -'
    expect ZONE '^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$' 'a zone such as us-central1-a'
    expect BUCKET '^[a-z0-9][-_.a-z0-9]+$' "a bucket's name, without gs://"
    expect MOUNT '^/.' 'an absolute path'
    expect CAPACITY '^(spot|on-demand|reserved)$' 'spot, on-demand or reserved'
    read_accelerator
    WHERE=("--project=$PROJECT" "--zone=$ZONE")
    [[ $DRY_RUN ]] || command -v gcloud >/dev/null ||
        die "gcloud is not on PATH; install it: https://cloud.google.com/sdk/docs/install"
}

expect() {
    [[ ${!1} =~ $2 ]] || die "$1 is '${!1}', expected $3; edit ${TPU_CONFIG:-config.sh}"
}

# https://cloud.google.com/tpu/docs/runtimes and /tpu/docs/v5e, v5p, v6e
# shellcheck disable=SC2034 # create.sh and status.sh use them
read_accelerator() {
    local size=${ACCELERATOR##*-} sizes='1 4 8 16 32 64 128 256' cores=1
    case $ACCELERATOR in
    v5litepod-*) RUNTIME=v2-alpha-tpuv5-lite ;;
    v6e-*) RUNTIME=v2-alpha-tpuv6e ;;
    v5p-*)
        RUNTIME=v2-alpha-tpuv5
        sizes='8 16 32 64 or a multiple of 128 up to 12288'
        cores=2
        ;;
    *) die "ACCELERATOR is '$ACCELERATOR', expected v5litepod-N, v5p-N or v6e-N" ;;
    esac
    [[ $size =~ ^[1-9][0-9]{0,4}$ ]] || size=0
    if [[ " $sizes " != *" $size "* ]] &&
        ((cores == 1 || size == 0 || size % 128 || size > 12288)); then
        die "ACCELERATOR is '$ACCELERATOR', expected ${ACCELERATOR%-*}-N with N of $sizes"
    fi
    CHIPS=$((size / cores))
}

# Requires ARGS to be a command for the workers, with a workdir that outlives them.
check_command() {
    local i word workdir=''
    ((${#ARGS[@]})) || die "no command; put it after --, see ${0##*/} --help"
    local verb=$HERE/../soraxla/cli/${ARGS[0]}
    [[ -f $verb.py || -f ${verb}_.py ]] ||
        die "unknown command '${ARGS[0]}', expected such as train or prepare"
    for ((i = 0; i < ${#ARGS[@]}; i++)); do
        word=${ARGS[i]}
        [[ $word != --workdir ]] || workdir=${ARGS[i + 1]:-}
        [[ $word != --workdir=* ]] || workdir=${word#*=}
    done
    [[ ${ARGS[0]} != train || ($workdir == "$MOUNT"/* && /$workdir/ != */../*) ]] ||
        die "--workdir is '$workdir', expected a folder under $MOUNT, which is the" \
            "bucket: files elsewhere are lost with the TPU"
}

# Prints the words as one line that a POSIX shell reads back as the same words.
quoted() {
    local word line='' quote="'\\''"
    for word in "$@"; do
        if [[ ! $word =~ ^[a-zA-Z0-9_./:=@%+,-]+$ ]]; then
            word="'${word//\'/"$quote"}'"
        fi
        line+="$word "
    done
    printf '%s' "${line% }"
}

# Runs a command, or prints it.
run() {
    if [[ $DRY_RUN ]]; then
        printf '%s\n' "$(quoted "$@")" >&3
    else
        "$@" 3>&-
    fi
}

# Runs a command for its answer; $1 is the answer that a dry run goes on with.
ask() {
    local assumed=$1
    shift
    run "$@" || return
    if [[ $DRY_RUN ]]; then printf '%s\n' "$assumed"; fi
}

# Prints the queued resource's state, or ABSENT; $1 is what a dry run assumes.
queue_state() {
    local errors state
    errors=$(mktemp)
    if state=$(ask "$1" gcloud compute tpus queued-resources describe "$NAME" \
        "${WHERE[@]}" '--format=value(state.state)' 2>"$errors"); then
        printf '%s\n' "$state"
    elif grep -q NOT_FOUND "$errors"; then
        echo ABSENT
    else
        cat "$errors" >&2
        rm -f "$errors"
        return 1
    fi
    rm -f "$errors"
}

# Calls worker.sh on workers ('all' or a number): on_workers WORKERS VERB [ARGUMENT…]
on_workers() {
    run gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" "--worker=$1" \
        "--command=$(quoted bash soraxla-worker.sh "${@:2}")"
}
