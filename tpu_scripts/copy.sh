#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: copy.sh [--dry-run] FOLDER TO

Copies a folder of the bucket, such as runs/dit, into the local folder TO; files that
are there already are not copied again."
read_options "$@"
((${#ARGS[@]} == 2)) || die "expected FOLDER and TO; see --help"
read_config
folder=${ARGS[0]#"gs://$BUCKET"}
folder=${folder#"$MOUNT"}
folder=${folder#/}
[[ $folder && $folder != gs://* ]] ||
    die "FOLDER is '${ARGS[0]}', expected a folder of $BUCKET, such as runs/dit"
run mkdir -p -- "${ARGS[1]}"
run gcloud storage rsync --recursive "gs://$BUCKET/$folder" "${ARGS[1]}" \
    "--project=$PROJECT"
