#!/usr/bin/env bash
# Says where the request stands and, once it is ACTIVE, whether a run is going on every worker.
#
#   tpu/status.sh --name demo
#
# --wait            first waits until the request is ACTIVE
# --dry-run         prints the gcloud commands and runs nothing

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "" "wait" "$@"
settings
need_gcloud
if [ -n "$flag_wait" ]; then wait_until_active; else look queued-resources ACTIVE; fi
case $state in
  ACTIVE) on_all "if [ -e corl_jax/tpu/worker.sh ]; then bash corl_jax/tpu/worker.sh state; else echo 'not set up'; fi" ;;
  NOT_FOUND) say "there is no '$name' in $zone" ;;
  *) queue describe "$name" "${place[@]}" "--format=yaml(state)" ;;
esac
