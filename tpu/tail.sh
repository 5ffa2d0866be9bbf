#!/usr/bin/env bash
# Follows the log of one worker; Ctrl-C ends the following, not the run.
#
#   tpu/tail.sh --name demo
#
# --worker N        default 0
# --lines N         how much of the past to show (default 100)
# --dry-run         prints the gcloud command and runs nothing

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "worker lines" "" "$@"
settings
worker=${flag_worker:-0} lines=${flag_lines:-100}
[[ $worker =~ ^[0-9]+$ ]] || die 2 "--worker '$worker' is no worker; expected a number from 0"
[[ $lines =~ ^[0-9]+$ ]] || die 2 "--lines '$lines' is no number of lines; expected for example 100"
need_gcloud
call gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "--worker=$worker" "--command=tail -n $lines -F corl.log"
