#!/usr/bin/env bash
# After a preemption: asks for the same slice again, sets it up with the same commit, starts the same run.
#
#   tpu/resume.sh --name demo
#
# --name NAME       what create.sh, setup.sh and run.sh did for this name is remembered; nothing else is needed
# --dry-run         prints the commands as after a preemption and runs nothing
#
# What it does depends on what it finds: a request that is over (SUSPENDED, FAILED), or a node that was taken away, is
# deleted and made anew; one that still waits is waited for; a slice that is there and idle is started again. The run
# goes on from its work directory, which must have outlived the VMs (a bucket mounted on every worker).

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "" "" "$@"
settings
slice
[ -n "$command" ] || die 2 "no run of '$name' is remembered in $file; start one with run.sh --name $name --config=FILE"
need_gcloud
given=(--name "$name" --zone "$zone")
if [ -n "$project" ]; then given+=(--project "$project"); fi
if [ -n "$flag_dry_run" ]; then given+=(--dry-run); fi
same=(--type "$type" --runtime "$runtime")
if [ -n "$spot" ]; then same+=(--spot); fi
if [ -n "$valid_until" ]; then same+=(--valid-until-duration "$valid_until"); fi
if [ -n "$more" ]; then eval "same+=(-- $more)"; fi # words that quote() wrote

look queued-resources SUSPENDED
while [ "$state" = SUSPENDING ] || [ "$state" = DELETING ]; do
  say "$name: $state; waiting for its end"
  sleep "$poll"
  look queued-resources SUSPENDED
done
say "$name: $state"
if [ "$state" = ACTIVE ]; then
  look tpu-vm READY
  say "$name: its node is $state"
  case $state in
    READY) state=ACTIVE ;;
    CREATING | STARTING | RESTARTING | REPAIRING | REIMAGING)
      die 1 "the node of '$name' is $state, which passes; call resume.sh again in some minutes"
      ;;
    *) state=SUSPENDED ;; # PREEMPTED, TERMINATED, STOPPED, NOT_FOUND: nothing to keep
  esac
fi
case $state in
  ACTIVE) ;;
  CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) wait_until_active ;;
  SUSPENDED | FAILED)
    queue delete "$name" "${place[@]}" --force --quiet
    "$here/create.sh" "${given[@]}" "${same[@]}"
    ;;
  NOT_FOUND) "$here/create.sh" "${given[@]}" "${same[@]}" ;;
  *) die 1 "'$name' is $state, which this script does not know; look with gcloud compute tpus queued-resources describe $name --zone=$zone" ;;
esac
"$here/setup.sh" "${given[@]}" ${commit:+--commit "$commit"}
"$here/run.sh" "${given[@]}" --again
