#!/usr/bin/env bash
# Requests a TPU slice through the queue and waits until it is ready.
#
#   tpu/create.sh --name demo --zone us-west4-a --type v5litepod-8 --spot
#
# --name NAME       name of the queued resource and of its node
# --zone ZONE       gcloud compute tpus accelerator-types list --zone=ZONE lists the types of a zone
# --type TYPE       v5litepod-8, v5p-32, v6e-8, v4-32 ...; README.md lists chips and VMs
# --project PROJECT default: the project of gcloud config
# --runtime VERSION software of the VMs; default: Google's version for JAX on this type
# --spot            much cheaper, but may be preempted at any time (resume.sh)
# --valid-until-duration 6h   the request ends if no slice is free within this time
# --dry-run         prints the gcloud commands instead of running them
# -- FLAG...        further flags of `gcloud compute tpus queued-resources create`, such as --network=NAME
#
# Ctrl-C stops the waiting, not the request; status.sh --name NAME --wait waits again.

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

parse_flags "type runtime valid-until-duration --" "spot" "$@"
load_settings new
resolve_slice
[[ -z $valid_until || $valid_until =~ ^([0-9]+[smhd])+$ ]] ||
  die 2 "--valid-until-duration must be a duration, for example 6h or 1d12h; got '$valid_until'"
require_gcloud

request=(create "$name" "--node-id=$name" "${location_flags[@]}")
request+=("--accelerator-type=$accelerator_type" "--runtime-version=$runtime_version")
if [ -n "$spot" ]; then request+=(--spot); fi
if [ -n "$valid_until" ]; then request+=("--valid-until-duration=$valid_until"); fi
if [ -n "$create_flags" ]; then eval "request+=($create_flags)"; fi # quoted by quote_words

info "$name: $accelerator_type in $zone, $chips chips on $workers VM(s), $runtime_version${spot:+, spot}"
queued_resources "${request[@]}"
save_settings
wait_until_active
info "next: tpu/setup.sh --name $name"
