#!/usr/bin/env bash
# Asks for a TPU slice through the queue and waits until it is there.
#
#   tpu/create.sh --name demo --zone us-west4-a --type v5litepod-8 --spot
#
# --name NAME       of the queued resource and of its node
# --zone ZONE       gcloud compute tpus accelerator-types list --zone=ZONE says what a zone has
# --type TYPE       v5litepod-8, v5p-32, v6e-8, v4-32 ...; see README.md for chips and hosts
# --project PROJECT the default is gcloud's own
# --runtime VERSION software of the VMs; the default is Google's for JAX on this type
# --spot            much cheaper, may be taken away at any time (resume.sh)
# --valid-until-duration 6h   gives up where nothing was free by then
# --dry-run         prints the gcloud commands and runs nothing
# -- FLAG...        further flags of `gcloud compute tpus queued-resources create`, such as --network=NAME
#
# Ctrl-C stops the waiting, not the request: status.sh --name NAME --wait waits again.

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse "type runtime valid-until-duration --" "spot" "$@"
settings new
slice
[[ -z $valid_until || $valid_until =~ ^([0-9]+[smhd])+$ ]] ||
  die 2 "--valid-until-duration '$valid_until' is no duration; expected for example 6h or 1d12h"
need_gcloud

line=(create "$name" "--node-id=$name" "${place[@]}" "--accelerator-type=$type" "--runtime-version=$runtime")
if [ -n "$spot" ]; then line+=(--spot); fi
if [ -n "$valid_until" ]; then line+=("--valid-until-duration=$valid_until"); fi
if [ -n "$more" ]; then eval "line+=($more)"; fi # words that quote() wrote

say "$name: $type in $zone, $chips chips on $workers VM(s), $runtime${spot:+, spot}"
queue "${line[@]}"
remember
wait_until_active
say "next: tpu/setup.sh --name $name"
