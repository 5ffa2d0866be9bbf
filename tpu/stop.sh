#!/usr/bin/env bash
# Stops the run on all workers. The run saves a checkpoint first, and run.sh --again resumes it. The TPU remains, and
# costs money until delete.sh.
#
#   tpu/stop.sh --name demo
#
# --dry-run         prints the gcloud command instead of running it

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "" "" "$@"
load_settings
require_gcloud
ssh_all_workers "bash corl_jax/tpu/worker.sh stop"
