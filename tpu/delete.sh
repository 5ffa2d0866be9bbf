#!/usr/bin/env bash
# Deletes the queued resource, its node and what is on the disks of its VMs. From then on it costs nothing.
#
#   tpu/delete.sh --name demo
#
# --yes             does not ask
# --forget          forgets the settings and the last run too; otherwise resume.sh --name NAME brings all of it back
# --dry-run         prints the gcloud command and runs nothing

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "" "yes forget" "$@"
settings
need_gcloud
if [ -z "$flag_yes$flag_dry_run" ]; then
  printf "delete '%s' (%s, %s) and all that is on its disks? [y/N] " "$name" "${type:-unknown type}" "$zone" >&2
  answer=''
  read -r answer || true
  [ -t 0 ] || say ''
  [[ $answer =~ ^([yY]|[yY][eE][sS])$ ]] || die 2 "'$name' was not deleted; answer y, or give --yes"
fi
queue delete "$name" "${place[@]}" --force --quiet
[ -z "$flag_dry_run" ] || exit 0
if [ -n "$flag_forget" ]; then
  rm -f "$file"
  say "$name: deleted and forgotten"
elif [ -e "$file" ]; then
  say "$name: deleted; $file remembers it for resume.sh"
fi
