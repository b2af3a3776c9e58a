#!/usr/bin/env bash
# Runs on a TPU worker, where setup.sh copies it and the other scripts call it:
#   soraxla-worker.sh VERB [ARGUMENT…]
# It writes below ~/soraxla: source/, venv/, run/.
set -euo pipefail
SELF=$(realpath "$0")
RUN=$HOME/soraxla/run
VENV=$HOME/soraxla/venv
export PATH="$HOME/.local/bin:$PATH"
# The number of this worker in the slice, from where jax reads it too.
WORKER=$(curl -fsS -H 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number) ||
    WORKER=$(hostname)

say() { printf '[worker %s] %s\n' "$WORKER" "$*"; }

fail() {
    say "$*" >&2
    exit 1
}

# Succeeds if the process of `launch` runs; after a reboot another may have its number.
running() {
    [[ -f $RUN/pid ]] && grep -qs supervise "/proc/$(<"$RUN/pid")/cmdline"
}

mount_bucket() { # BUCKET MOUNT
    mountpoint -q "$2" && return
    sudo mkdir -p "$2"
    sudo chown "$(id -un)" "$2"
    # On TPU machines gcsfuse caches metadata for ever by default, so that a worker would
    # not see the files that another has written.
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
        --metadata-cache-negative-ttl-secs=0 "$1" "$2"
}

install_gcsfuse() { # https://cloud.google.com/storage/docs/cloud-storage-fuse/install
    local key=/usr/share/keyrings/cloud.google.asc
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    # A fresh machine may still be updating itself, and hold the lock.
    sudo apt-get -o DPkg::Lock::Timeout=600 update -qq
    sudo apt-get -o DPkg::Lock::Timeout=600 install -qq -y gcsfuse
}

setup() { # BUCKET MOUNT SOURCE SOURCE_REF
    running && fail "a command is running; stop.sh ends it"
    local new=$HOME/soraxla/source.new
    mkdir -p "$RUN"
    command -v gcsfuse >/dev/null || install_gcsfuse
    mount_bucket "$1" "$2"
    command -v uv >/dev/null || curl -fsSL https://astral.sh/uv/install.sh | sh
    rm -rf "$new"
    if [[ -z $3 ]]; then
        mkdir "$new"
        tar -xzf "$2/setup/source.tar.gz" -C "$new"
    else
        git clone --quiet "$3" "$new"
        git -C "$new" checkout --quiet "$4"
    fi
    rm -rf "$HOME/soraxla/source"
    mv "$new" "$HOME/soraxla/source"
    [[ -x $VENV/bin/python ]] || uv venv --quiet --python 3.12 "$VENV"
    uv pip install --quiet --python "$VENV/bin/python" --editable "$HOME/soraxla/source[tpu]"
    say "ready"
}

launch() { # BUCKET MOUNT VERB [ARGUMENT…]
    running && fail "a command is running; stop.sh ends it"
    [[ -x $VENV/bin/soraxla ]] || fail "soraxla is not installed; run setup.sh"
    mount_bucket "$1" "$2" # a reboot ends the mount
    rm -f "$RUN/ended"
    export JAX_COMPILATION_CACHE_DIR="$2/compiled" # the first writes, all read
    cd "$HOME/soraxla/source"
    setsid nohup bash "$SELF" supervise "${@:3}" >>"$RUN/log" 2>&1 </dev/null &
    echo "$!" >"$RUN/pid"
    say "started"
}

# Runs the command, in the background of `launch`, and notes its exit status.
supervise() { # VERB [ARGUMENT…]
    local status=0 stopped=''
    trap '' USR1 # the command inherits this, so a signal before it listens is harmless
    trap 'stopped=1' TERM
    echo "== $(date -u +%FT%TZ) soraxla $*"
    "$VENV/bin/soraxla" "$@" || status=$?
    # A training that receives SIGTERM saves and exits with 0 before its last step.
    [[ -z $stopped ]] || status=stopped
    echo "$status" >"$RUN/ended.new"
    mv "$RUN/ended.new" "$RUN/ended"
}

status() {
    local state last=''
    if running; then
        state=running
    elif [[ -f $RUN/ended ]]; then
        state=$(<"$RUN/ended")
        case $state in
        0) state=finished ;;
        stopped) ;;
        *) state="failed with status $state" ;;
        esac
    elif [[ -f $RUN/pid ]]; then
        state=lost
    else
        state=idle
    fi
    # A progress bar is one long line of carriage returns.
    [[ ! -f $RUN/log ]] || last=$(tail -c 4096 "$RUN/log" | tr '\r' '\n' | grep -v '^$' | tail -n 1) || true
    say "$state${last:+: $last}"
}

logs() {
    local follow=()
    [[ -f $RUN/log ]] || fail "no command was launched here"
    ! running || follow=(-F "--pid=$(<"$RUN/pid")")
    tail -n 20 ${follow[@]+"${follow[@]}"} "$RUN/log" | stdbuf -oL tr '\r' '\n' |
        sed -u "s/^/[worker $WORKER] /"
}

stop() {
    running || fail "no command is running"
    kill -TERM -- "-$(<"$RUN/pid")"
    while running; do sleep 1; done
    status
}

profile() {
    running || fail "no command is running"
    kill -USR1 -- "-$(<"$RUN/pid")"
    say "asked for a trace; logs.sh says where it is"
}

"$@"
