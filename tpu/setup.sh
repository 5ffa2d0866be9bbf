#!/usr/bin/env bash
# Copies the last commit of this checkout to all workers, installs it, and counts the chips.
#
#   tpu/setup.sh --name demo
#
# --name NAME       a TPU created by create.sh; for any other TPU also pass --zone, --project and --type
# --python VERSION  Python version that uv installs on the workers (default: 3.12; the VM images have 3.10)
# --commit COMMIT   copies this commit instead of the last one
# --allow-dirty     allows uncommitted changes in the checkout; they are not copied
# --dry-run         prints the commands instead of running them
#
# It is an error if a run is active. Repeat it after every commit that the TPU should use.

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "type python commit" "allow-dirty" "$@"
load_settings
resolve_slice
python_version=${flag_python:-3.12}
[[ $python_version =~ ^3\.1[1-9]$ ]] || die 2 "--python must be 3.11 or newer, for example 3.12; got '$python_version'"

commit=$(git -C "$repo_root" rev-parse --verify --quiet "${flag_commit:-HEAD}^{commit}") ||
  die 2 "--commit must be a commit of the git checkout $repo_root; got '${flag_commit:-HEAD}'"
changes=$(git -C "$repo_root" status --porcelain | wc -l | tr -d ' ')
if [ "$changes" -gt 0 ] && [ -z "$flag_commit" ]; then
  [ -n "$flag_allow_dirty" ] ||
    die 2 "the checkout must be clean, because only commits are copied; got $changes uncommitted change(s)." \
      "Commit them, or pass --allow-dirty to run without them"
  info "$changes uncommitted change(s) will not be copied"
fi
require_gcloud

archive=$settings_dir/$name.tar.gz
if [ -z "$flag_dry_run" ]; then
  mkdir -p "$settings_dir"
  trap 'rm -f "$archive"' EXIT
fi
run_or_print git -C "$repo_root" archive --format=tar.gz "--output=$archive" "$commit"
copy_to_workers "$archive" corl_jax.tar.gz

# The folders with code are replaced, so that no stale file remains. Work directories next to them are not touched.
ssh_all_workers "flock -n corl.lock true || { echo 'error: a run is active; stop it with stop.sh' >&2; exit 2; };" \
  "mkdir -p corl_jax && cd corl_jax && rm -rf corl_jax configs tpu && tar -xzf ../corl_jax.tar.gz &&" \
  "echo $commit > COMMIT && bash tpu/worker.sh install $python_version"
ssh_all_workers "bash corl_jax/tpu/worker.sh check $workers $chips"
save_settings
info "next: tpu/run.sh --name $name --config=configs/unified.py --workdir=/mnt/runs/RUN"
