#!/usr/bin/env bash
# Ends the run on all workers; it saves first, and run.sh --again takes it up. The TPU stays, and costs.
#
#   tpu/stop.sh --name demo
#
# --dry-run         prints the gcloud command and runs nothing

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "" "" "$@"
settings
need_gcloud
on_all "bash corl_jax/tpu/worker.sh stop"
