#!/usr/bin/env bash
# Starts the same run on all workers at once; it goes on when the connection is lost.
#
#   tpu/run.sh --name demo --config=configs/unified.py --workdir=/mnt/runs/unified --config.seed=1
#
# --name NAME       a TPU that setup.sh prepared
# --config=FILE     this, --workdir=DIR and --config.KEY=VALUE go to `python -m corl_jax.main` as they are; relative
#                   paths are in the copied checkout, ~/corl_jax
# --again           the flags of the last run instead; a run goes on from its work directory
# --dry-run         prints the gcloud commands and runs nothing
#
# Refuses where a run is going or another process holds a chip. Every worker writes ~/corl.log (tail.sh).

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "program" "again" "$@"
settings
if [ -n "$flag_again" ]; then
  [ ${#program[@]} -eq 0 ] || die 2 "--again repeats the last run; expected no further flags, but there is '${program[0]}'"
  [ -n "$command" ] || die 2 "no run of '$name' is remembered in $file; expected for example --config=configs/unified.py"
else
  [[ " ${program[*]-}" == *" --config="* ]] || die 2 "--config is missing; expected for example --config=configs/unified.py"
  command=$(quoted "${program[@]}")
fi
if ! [[ " $command" =~ " --workdir="\'?("/mnt/"|"gs://") ]]; then
  say "note: the work directory is on the disks of the VMs and goes with them; one in a bucket, gs://... or mounted at /mnt/..., would stay"
fi
need_gcloud

# First all workers are asked, then all are started: a slice that starts in part would wait for the rest.
on_all "bash corl_jax/tpu/worker.sh ready"
remember
on_all "bash corl_jax/tpu/worker.sh start $command"
say "next: tpu/tail.sh --name $name"
