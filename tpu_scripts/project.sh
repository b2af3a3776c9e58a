#!/usr/bin/env bash
# shellcheck source=lib.sh
source "$(dirname "$0")/lib.sh"
USAGE="usage: project.sh [--dry-run]

Prepares an empty Cloud project, once: enables the APIs, creates the bucket and the
service account of the workers, and lets it read and write the bucket. It changes
nothing that exists."
read_options "$@"
no_arguments
read_config

# Runs the command after -- unless the one before it finds what it would create.
unless() {
    local look=()
    while [[ $1 != -- ]]; do
        look+=("$1")
        shift
    done
    if ! run "${look[@]}" >/dev/null 2>&1 || [[ $DRY_RUN ]]; then run "${@:2}"; fi
}

run gcloud services enable tpu.googleapis.com compute.googleapis.com \
    storage.googleapis.com iam.googleapis.com "--project=$PROJECT"
# Hierarchical, because a checkpoint becomes whole by the rename of a folder, which is
# atomic in such a bucket and not in another.
unless gcloud storage buckets describe "gs://$BUCKET" "--project=$PROJECT" -- \
    gcloud storage buckets create "gs://$BUCKET" "--project=$PROJECT" \
    "--location=${ZONE%-*}" --uniform-bucket-level-access \
    --enable-hierarchical-namespace
unless gcloud iam service-accounts describe "$SERVICE_ACCOUNT" "--project=$PROJECT" -- \
    gcloud iam service-accounts create "${SERVICE_ACCOUNT%%@*}" "--project=$PROJECT"
run gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" \
    "--project=$PROJECT" "--member=serviceAccount:$SERVICE_ACCOUNT" \
    --role=roles/storage.objectUser
