#!/usr/bin/env bash
# Deletes the queued resource, its node and the disks of its VMs. From then on it costs nothing.
#
#   tpu/delete.sh --name demo
#
# --yes             deletes without a question
# --forget          also deletes the saved settings; without it, resume.sh --name NAME creates the slice again
# --dry-run         prints the gcloud command instead of running it

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "" "yes forget" "$@"
load_settings
require_gcloud

if [ -z "$flag_yes$flag_dry_run" ]; then
  printf "delete '%s' (%s, %s) and everything on its disks? [y/N] " \
    "$name" "${accelerator_type:-unknown type}" "$zone" >&2
  answer=''
  read -r answer || true # the input may end without an answer
  [ -t 0 ] || info ''    # a terminal echoes the line break itself
  [[ $answer =~ ^([yY]|[yY][eE][sS])$ ]] || die 2 "'$name' was not deleted; answer y, or pass --yes"
fi

queued_resources delete "$name" "${location_flags[@]}" --force --quiet
[ -z "$flag_dry_run" ] || exit 0
if [ -n "$flag_forget" ]; then
  rm -f "$settings_file"
  info "$name: deleted, with its settings"
elif [ -e "$settings_file" ]; then
  info "$name: deleted; resume.sh can create it again from the settings in $settings_file"
fi
