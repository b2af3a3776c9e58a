#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: setup.sh [--dry-run]

Makes every worker ready: mounts the bucket, and installs Python 3.12, jax[tpu] and
soraxla, from this checkout with its changes or from the SOURCE of the configuration.
Run it again after a change to install the change."
read_options "$@"
no_arguments
read_config

if [[ -z ${SOURCE:-} ]]; then
    git -C "$HERE" ls-files --error-unmatch setup.sh >/dev/null 2>&1 ||
        die "${HERE%/*} is no git checkout of yours, so its files are unknown; set" \
            "SOURCE in the configuration, or clone the repository with git"
    archive=${TMPDIR:-/tmp}/soraxla-source.$$.tar.gz
    trap 'rm -f "$archive"' EXIT
    # Files that git tracks, and new source files beside them: no data, no runs.
    # shellcheck disable=SC2016 # the inner shell expands its own arguments
    run bash -c 'set -o pipefail && cd "$1" && {
        git ls-files -z --cached
        git ls-files -z --others --exclude-standard \
            soraxla configs data_pipelines tpu_scripts
    } | while IFS= read -r -d "" file; do
        [[ ! -e $file ]] || printf "%s\0" "$file"
    done |
        tar --null -czf "$2" -T -' pack "$HERE/.." "$archive"
    run gcloud storage cp "$archive" "gs://$BUCKET/setup/source.tar.gz" \
        "--project=$PROJECT"
fi
run gcloud compute tpus tpu-vm scp "$HERE/worker.sh" "$NAME:soraxla-worker.sh" \
    "${WHERE[@]}" --worker=all
on_workers all setup "$BUCKET" "$MOUNT" "${SOURCE:-}" "${SOURCE_REF:-}"
