#!/usr/bin/env bash
# Follows the log of one worker. Ctrl-C stops following; the run continues.
#
#   tpu/tail.sh --name demo
#
# --worker N        number of the worker (default: 0)
# --lines N         number of earlier lines to print first (default: 100)
# --dry-run         prints the gcloud command instead of running it

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "worker lines" "" "$@"
load_settings
worker=${flag_worker:-0} lines=${flag_lines:-100}
[[ $worker =~ ^[0-9]+$ ]] || die 2 "--worker must be the number of a worker, from 0; got '$worker'"
[[ $lines =~ ^[0-9]+$ ]] || die 2 "--lines must be a number of lines, for example 100; got '$lines'"
require_gcloud
run_or_print gcloud compute tpus tpu-vm ssh "$name" "${location_flags[@]}" \
  "--worker=$worker" "--command=tail -n $lines -F corl.log"
