# shellcheck shell=bash disable=SC2034
# Copy to config.sh beside it and edit once; every script reads it. TPU_CONFIG names
# another file, for a second TPU: TPU_CONFIG=tpu_scripts/v5p.sh tpu_scripts/create.sh

# The id of a Cloud project that has billing.
PROJECT=
# The zone of the TPU; not every zone has every type:
# https://cloud.google.com/tpu/docs/regions-zones
ZONE=us-central1-a
# The name of the TPU and of its queued resource.
NAME=soraxla
# v5litepod-N and v6e-N count chips, v5p-N counts cores, two a chip.
ACCELERATOR=v5litepod-8
# spot (cheap, may be taken away), on-demand, or reserved.
CAPACITY=spot
# The longest wait of a request in the queue, such as 6h; empty waits for ever.
WAIT_AT_MOST=

# The bucket that holds data, runs and results, without gs://, in the TPU's region; and
# where every worker sees it.
BUCKET=
MOUNT=/mnt/bucket
# The account of the workers; project.sh creates this one.
SERVICE_ACCOUNT=soraxla-tpu@$PROJECT.iam.gserviceaccount.com

# The source to install: empty for this checkout with its changes, or the URL of a git
# repository and a branch, tag or commit.
SOURCE=
SOURCE_REF=main
