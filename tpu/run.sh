#!/usr/bin/env bash
# Starts the same run on all workers at once. The run survives a lost connection.
#
#   tpu/run.sh --name demo --config=configs/unified.py --workdir=/mnt/runs/unified --config.seed=1
#
# --name NAME       a TPU that setup.sh has set up
# --config=FILE     this flag, --workdir=DIR and --config.KEY=VALUE are passed to `python -m corl_jax.main` unchanged;
#                   relative paths start at the copied checkout, ~/corl_jax
# --again           uses the flags of the last run, which resumes from its work directory
# --dry-run         prints the gcloud commands instead of running them
#
# It is an error if a run is active or another process uses a chip. Every worker writes ~/corl.log (tail.sh).

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "run-flags" "again" "$@"
load_settings
if [ -n "$flag_again" ]; then
  [ ${#run_flags[@]} -eq 0 ] ||
    die 2 "--again must be given without flags of the run; got '${run_flags[0]}'. Omit --again to start a new run"
  [ -n "$run_args" ] ||
    die 2 "no run of '$name' is saved in $settings_file; start one, for example with --config=configs/unified.py"
else
  [[ " ${run_flags[*]-}" == *" --config="* ]] || die 2 "--config is required; for example --config=configs/unified.py"
  run_args=$(quote_words "${run_flags[@]}")
fi
if ! [[ " $run_args" =~ " --workdir="\'?("/mnt/"|"gs://") ]]; then
  info "note: the work directory is on the disks of the VMs and is deleted with them;" \
    "use a bucket (gs://..., or mounted at /mnt/...) to preserve it"
fi
require_gcloud

# All workers are checked before any is started: a slice that starts only in part would wait for the rest.
ssh_all_workers "bash corl_jax/tpu/worker.sh ready"
save_settings
ssh_all_workers "bash corl_jax/tpu/worker.sh start $run_args"
info "next: tpu/tail.sh --name $name"
