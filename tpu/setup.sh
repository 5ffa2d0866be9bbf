#!/usr/bin/env bash
# Copies the last commit of this checkout to all workers, installs it there, and counts the chips.
#
#   tpu/setup.sh --name demo
#
# --name NAME       a TPU that create.sh made; --zone, --project and --type are needed only for others
# --python VERSION  the Python that uv installs on the workers (default 3.12; the images have 3.10)
# --commit COMMIT   copies this commit instead of the last one
# --allow-dirty     copies the last commit though the checkout has changes; they stay behind
# --dry-run         prints the commands and runs nothing
#
# Refuses while a run is going. Run it again after every commit that should reach the TPU.

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "type python commit" "allow-dirty" "$@"
settings
slice
python=${flag_python:-3.12}
[[ $python =~ ^3\.1[1-9]$ ]] || die 2 "--python '$python': corl_jax wants 3.11 or newer; expected for example 3.12"
commit=$(git -C "$root" rev-parse --verify --quiet "${flag_commit:-HEAD}^{commit}") ||
  die 2 "no commit '${flag_commit:-HEAD}' in $root; expected a git checkout that has it"
changes=$(git -C "$root" status --porcelain | wc -l | tr -d ' ')
if [ "$changes" -gt 0 ] && [ -z "$flag_commit" ]; then
  [ -n "$flag_allow_dirty" ] ||
    die 2 "the checkout has $changes uncommitted change(s), and only commits are copied; commit them, or leave them behind with --allow-dirty"
  say "leaving $changes uncommitted change(s) behind"
fi
need_gcloud

archive=$folder/$name.tar.gz
if [ -z "$flag_dry_run" ]; then
  mkdir -p "$folder"
  trap 'rm -f "$archive"' EXIT
fi
call git -C "$root" archive --format=tar.gz "--output=$archive" "$commit"
copy "$archive" corl_jax.tar.gz
# The folders that hold code are replaced, so that no stale file stays; work directories beside them are left alone.
on_all "flock -n corl.lock true || { echo 'error: a run is going; stop.sh ends it' >&2; exit 2; };" \
  "mkdir -p corl_jax && cd corl_jax && rm -rf corl_jax configs tpu && tar -xzf ../corl_jax.tar.gz &&" \
  "echo $commit > COMMIT && bash tpu/worker.sh install $python"
on_all "bash corl_jax/tpu/worker.sh check $workers $chips"
remember
say "next: tpu/run.sh --name $name --config=configs/unified.py --workdir=/mnt/runs/RUN"
