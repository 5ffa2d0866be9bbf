#!/usr/bin/env bash
# After a preemption: requests the same slice again, sets up the same commit and starts the same run.
#
#   tpu/resume.sh --name demo
#
# --name NAME       all that is needed: create.sh, setup.sh and run.sh saved the rest under this name
# --dry-run         prints the commands for the case of a preemption instead of running them
#
# What it does depends on the state of the request. A request that has ended (SUSPENDED, FAILED), or whose node was
# preempted, is deleted and created again. A waiting request is waited for. On a slice that is ready and idle the run is
# started again. The run resumes from its work directory, which must not be on the disks of the VMs (use a bucket).

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "" "" "$@"
load_settings
resolve_slice
[ -n "$run_args" ] ||
  die 2 "no run of '$name' is saved in $settings_file; start one with run.sh --name $name --config=FILE"
require_gcloud

common_flags=(--name "$name" --zone "$zone")
if [ -n "$project" ]; then common_flags+=(--project "$project"); fi
if [ -n "$flag_dry_run" ]; then common_flags+=(--dry-run); fi
slice_flags=(--type "$accelerator_type" --runtime "$runtime_version")
if [ -n "$spot" ]; then slice_flags+=(--spot); fi
if [ -n "$valid_until" ]; then slice_flags+=(--valid-until-duration "$valid_until"); fi
if [ -n "$create_flags" ]; then eval "slice_flags+=(-- $create_flags)"; fi # quoted by quote_words

describe_state queued-resources SUSPENDED
while [ "$state" = SUSPENDING ] || [ "$state" = DELETING ]; do
  info "$name: $state; waiting until this has ended"
  sleep "$poll_seconds"
  describe_state queued-resources SUSPENDED
done
info "$name: $state"

# The request can be ACTIVE although its node is gone.
if [ "$state" = ACTIVE ]; then
  describe_state tpu-vm READY
  info "$name: its node is $state"
  case $state in
    READY) state=ACTIVE ;;
    CREATING | STARTING | RESTARTING | REPAIRING | REIMAGING)
      die 1 "the node of '$name' must be READY; got $state, which is temporary. Run resume.sh again in a few minutes"
      ;;
    *) state=SUSPENDED ;; # PREEMPTED, TERMINATED, STOPPED, NOT_FOUND: the node cannot be used any more
  esac
fi

case $state in
  ACTIVE) ;;
  CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) wait_until_active ;;
  SUSPENDED | FAILED)
    queued_resources delete "$name" "${location_flags[@]}" --force --quiet
    "$tpu_dir/create.sh" "${common_flags[@]}" "${slice_flags[@]}"
    ;;
  NOT_FOUND) "$tpu_dir/create.sh" "${common_flags[@]}" "${slice_flags[@]}" ;;
  *)
    die 1 "'$name' is $state, a state that $script_name cannot resume from;" \
      "inspect it with gcloud compute tpus queued-resources describe $name --zone=$zone"
    ;;
esac
"$tpu_dir/setup.sh" "${common_flags[@]}" ${commit:+--commit "$commit"}
"$tpu_dir/run.sh" "${common_flags[@]}" --again
