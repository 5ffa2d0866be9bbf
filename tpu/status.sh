#!/usr/bin/env bash
# Prints the state of the request and, once it is ACTIVE, whether a run is active on every worker.
#
#   tpu/status.sh --name demo
#
# --wait            first waits until the request is ACTIVE
# --dry-run         prints the gcloud commands instead of running them

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "" "wait" "$@"
load_settings
require_gcloud

if [ -n "$flag_wait" ]; then wait_until_active; else describe_state queued-resources ACTIVE; fi
case $state in
  ACTIVE)
    # Before setup.sh the workers have no worker.sh.
    ssh_all_workers "if [ -e corl_jax/tpu/worker.sh ]; then bash corl_jax/tpu/worker.sh state;" \
      "else echo 'not set up'; fi"
    ;;
  NOT_FOUND) info "'$name' does not exist in $zone" ;;
  *) queued_resources describe "$name" "${location_flags[@]}" "--format=yaml(state)" ;;
esac
