#!/usr/bin/env bash
# Shared by the scripts of this folder: flags, settings, slice types, and every call of gcloud.
#
# A setting is read from its flag, otherwise from ~/.config/corl_jax/tpu/NAME.env, otherwise from the environment:
# CORL_TPU_NAME, _ZONE, _PROJECT, _TYPE, _RUNTIME, _SPOT, _VALID_UNTIL. The scripts write one .env file per TPU;
# create.sh ignores the file of an earlier TPU with the same name.
# A dry run prints its commands to stdout. All messages go to stderr. Works with bash 3.2, the version on macOS.
# shellcheck disable=SC2034  # many variables are used only by the scripts that source this file
set -euo pipefail

tpu_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo_root=${tpu_dir%/*}
settings_dir=${XDG_CONFIG_HOME:-$HOME/.config}/corl_jax/tpu
poll_seconds=${CORL_TPU_POLL:-30} # between two checks of a queued resource
script_name=$(basename "$0")

info() { printf '%s\n' "$*" >&2; }

# die CODE MESSAGE: exits with one line. CODE is 2 for wrong input, 1 for an error of Google Cloud or of a worker.
die() {
  local code=$1
  shift
  info "error: $*"
  exit "$code"
}

# Prints a word so that a shell reads the same word back. Single quotes are added only where they are needed, and in
# --flag=VALUE only around the value.
quote_word() {
  local word=$1 flag='' tick="'" escaped="'\\''"
  if [[ $word =~ ^--[a-zA-Z0-9_.-]+= ]]; then
    flag=${BASH_REMATCH[0]}
    word=${word#"$flag"}
  fi

  # An empty word needs quotes, but --flag= does not.
  if [[ $word =~ ^[A-Za-z0-9_./:@%+,=-]+$ || (-z $word && -n $flag) ]]; then
    printf '%s' "$flag$word"
  else
    printf '%s' "$flag'${word//$tick/$escaped}'"
  fi
}

# Prints all words in this form, with one space between two words.
quote_words() {
  local word space=''
  for word; do
    printf '%s' "$space"
    quote_word "$word"
    space=' '
  done
}

# --- flags --------------------------------------------------------------------------------------------------------

# Prints the comment at the head of the script.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

flag_name='' flag_zone='' flag_project='' flag_type='' flag_runtime='' flag_valid_until_duration=''
flag_python='' flag_commit='' flag_worker='' flag_lines=''
flag_spot='' flag_dry_run='' flag_yes='' flag_forget='' flag_again='' flag_allow_dirty='' flag_wait=''
run_flags=()    # flags of corl_jax.main
gcloud_flags=() # flags of gcloud, after --

# parse_flags "FLAGS WITH A VALUE" "SWITCHES" "$@": sets flag_*, run_flags and gcloud_flags.
#
# Two entries of the first list are not names of flags: run-flags allows the flags of corl_jax.main, and -- allows
# flags of gcloud after --.
parse_flags() {
  local values=" name zone project $1 " switches=" dry-run $2 " flag value
  shift 2

  while [ $# -gt 0 ]; do
    flag=${1%%=*}
    flag=${flag#--}
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --)
        [[ $values == *" -- "* ]] || die 2 "unexpected argument '--'; $script_name --help lists the flags"
        shift
        gcloud_flags=("$@")
        # After -- it would be passed to gcloud, and this script would create a slice.
        [[ " $* " != *" --dry-run "* ]] || die 2 "--dry-run must come before --; got it after --, as a flag of gcloud"
        return
        ;;
      --config | --config.* | --config=* | --workdir | --workdir=*)
        [[ $values == *" run-flags "* ]] || die 2 "'$1' is a flag of the run; pass it to run.sh"
        [[ $1 == *=* ]] || die 2 "--$flag must be one word with its value, --$flag=VALUE; got '$1'"
        run_flags+=("$1")
        ;;
      --*)
        if [[ $switches == *" $flag "* ]]; then
          [ "$1" = "--$flag" ] || die 2 "--$flag must be given without a value; got '$1'"
          value=1
        elif [[ $values == *" $flag "* && $flag != run-flags ]]; then
          # Both --flag=VALUE and --flag VALUE are allowed.
          if [[ $1 == *=* ]]; then
            value=${1#*=}
          else
            [ $# -ge 2 ] || die 2 "--$flag requires a value; $script_name --help shows an example"
            value=$2
            shift
          fi
          [[ -n $value && $value != --* ]] ||
            die 2 "--$flag requires a value; got '$value'. $script_name --help shows an example"
        else
          die 2 "unknown flag '$1'; $script_name --help lists the flags"
        fi
        printf -v "flag_${flag//-/_}" '%s' "$value"
        ;;
      *) die 2 "unexpected argument '$1'; $script_name --help lists the flags" ;;
    esac
    shift
  done
}

# --- settings -----------------------------------------------------------------------------------------------------

# load_settings [new]: sets name, zone, project, accelerator_type, runtime_version, spot, valid_until, create_flags
# (further flags of gcloud), run_args and commit (those of the last run), settings_file and location_flags. With new,
# only run_args and commit are read from the saved file.
load_settings() {
  name=${flag_name:-${CORL_TPU_NAME:-}}
  [ -n "$name" ] || die 2 "--name is required; for example --name demo"
  [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    die 2 "--name must be lower-case letters, digits and dashes, for example demo-1; got '$name'"

  # The saved file assigns CORL_TPU_* and so replaces what the environment has.
  settings_file=$settings_dir/$name.env
  CORL_TPU_EXTRA='' CORL_TPU_RUN='' CORL_TPU_COMMIT=''
  # shellcheck disable=SC1090,SC2030,SC2031  # the path is not known before
  if [ -e "$settings_file" ] && [ "${1:-}" = new ]; then
    # In subshells, so that the other settings of the file are not assigned here.
    run_args=$(. "$settings_file" && printf '%s' "$CORL_TPU_RUN")
    commit=$(. "$settings_file" && printf '%s' "$CORL_TPU_COMMIT")
    CORL_TPU_RUN=$run_args CORL_TPU_COMMIT=$commit
  elif [ -e "$settings_file" ]; then
    . "$settings_file"
  fi

  zone=${flag_zone:-${CORL_TPU_ZONE:-}}
  project=${flag_project:-${CORL_TPU_PROJECT:-}}
  accelerator_type=${flag_type:-${CORL_TPU_TYPE:-}}
  spot=${flag_spot:-${CORL_TPU_SPOT:-}}
  valid_until=${flag_valid_until_duration:-${CORL_TPU_VALID_UNTIL:-}}
  runtime_version=${flag_runtime:-${CORL_TPU_RUNTIME:-}}
  create_flags=$CORL_TPU_EXTRA run_args=$CORL_TPU_RUN commit=$CORL_TPU_COMMIT
  if [ ${#gcloud_flags[@]} -gt 0 ]; then create_flags=$(quote_words "${gcloud_flags[@]}"); fi

  [ -n "$zone" ] ||
    die 2 "--zone is required, because no zone is saved in $settings_file; for example --zone us-west4-a"
  [[ $zone =~ ^[a-z]+-[a-z0-9]+-[a-z0-9]+$ ]] ||
    die 2 "--zone must be the name of a zone, for example us-west4-a; got '$zone'"
  location_flags=("--zone=$zone")
  if [ -n "$project" ]; then location_flags+=("--project=$project"); fi
}

# Checks accelerator_type. Sets chips, workers (the number of VMs of the slice) and, unless it is set, runtime_version.
# The number in a v4 or v5p name counts TensorCores, two per chip. The number in a v5e or v6e name counts chips.
resolve_slice() {
  [ -n "$accelerator_type" ] ||
    die 2 "--type is required, because no type is saved in $settings_file; for example --type v5litepod-8"
  [[ $accelerator_type != v5e-* ]] ||
    die 2 "--type must be a name that Google Cloud uses; got '$accelerator_type'." \
      "Pass --type v5litepod-${accelerator_type#v5e-}"
  [[ $accelerator_type =~ ^(v5litepod|v6e|v5p|v4)-([1-9][0-9]{0,4})$ ]] ||
    die 2 "--type must be v5litepod-N, v6e-N, v5p-N or v4-N; got '$accelerator_type'. For example --type v5litepod-8"

  local generation=${BASH_REMATCH[1]} size=${BASH_REMATCH[2]} default_runtime
  case $generation in
    v5litepod | v6e)
      [[ " 1 4 8 16 32 64 128 256 " == *" $size "* ]] ||
        die 2 "--type must be $generation-1, -4, -8, -16, -32, -64, -128 or -256; got '$accelerator_type'"
      # Up to 8 chips are on one host; larger slices have 4 chips per host.
      chips=$size workers=1
      if [ "$size" -gt 8 ]; then workers=$((size / 4)); fi
      ;;
    v5p | v4)
      [ $((size % 8)) -eq 0 ] ||
        die 2 "--type must be $generation-N with N a multiple of 8, the TensorCores of a host; got '$accelerator_type'"
      chips=$((size / 2)) workers=$((size / 8))
      ;;
  esac

  case $generation in
    v5litepod) default_runtime=v2-alpha-tpuv5-lite ;;
    v5p) default_runtime=v2-alpha-tpuv5 ;;
    v6e) default_runtime=v2-alpha-tpuv6e ;;
    v4) default_runtime=tpu-ubuntu2204-base ;;
  esac
  runtime_version=${runtime_version:-$default_runtime}
}

# Saves the settings, so that the other scripts need only --name.
save_settings() {
  [ -z "$flag_dry_run" ] || return 0
  local key
  mkdir -p "$settings_dir"
  (
    umask 077 # the flags of a run may contain a token
    CORL_TPU_ZONE=$zone CORL_TPU_PROJECT=$project CORL_TPU_TYPE=$accelerator_type CORL_TPU_RUNTIME=$runtime_version
    CORL_TPU_SPOT=$spot CORL_TPU_VALID_UNTIL=$valid_until
    CORL_TPU_EXTRA=$create_flags CORL_TPU_RUN=$run_args CORL_TPU_COMMIT=$commit

    # The file is renamed when it is complete, so that an interrupted script leaves the old one.
    for key in ZONE PROJECT TYPE RUNTIME SPOT VALID_UNTIL EXTRA RUN COMMIT; do
      key=CORL_TPU_$key
      printf '%s=%s\n' "$key" "$(quote_word "${!key}")"
    done >"$settings_file.new"
    mv "$settings_file.new" "$settings_file"
  )
}

# --- gcloud -------------------------------------------------------------------------------------------------------

# Runs a command; in a dry run prints it instead.
run_or_print() {
  if [ -n "$flag_dry_run" ]; then
    printf '%s\n' "$(quote_words "$@")"
  else
    "$@" || die 1 "'$1 ${*:2:4}' failed with exit code $?; its output is above"
  fi
}

require_gcloud() {
  [ -n "$flag_dry_run" ] || command -v gcloud >/dev/null ||
    die 2 "gcloud must be on PATH; install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install) and log in"
}

queued_resources() { run_or_print gcloud compute tpus queued-resources "$@"; }

# copy_to_workers FILE PATH
copy_to_workers() {
  run_or_print gcloud compute tpus tpu-vm scp "$1" "$name:$2" "${location_flags[@]}" --worker=all
}

# ssh_all_workers COMMAND...
ssh_all_workers() {
  run_or_print gcloud compute tpus tpu-vm ssh "$name" "${location_flags[@]}" --worker=all --command="$*"
}

# describe_state KIND DRY_RUN_STATE: sets state to the state of the queued resource (KIND queued-resources) or of its
# node (KIND tpu-vm), or to NOT_FOUND. A dry run prints the command and sets state to DRY_RUN_STATE. Five failures in a
# row are an error.
describe_state() {
  local kind=$1 dry_run_state=$2 field=state gcloud_stderr failures=0
  if [ "$kind" = queued-resources ]; then field=state.state; fi
  local describe=(gcloud compute tpus "$kind" describe "$name" "${location_flags[@]}" "--format=value($field)")
  if [ -n "$flag_dry_run" ]; then
    run_or_print "${describe[@]}"
    state=$dry_run_state
    return
  fi

  # A single failure may be the network, and the queue may take hours.
  gcloud_stderr=$(mktemp)
  while ! state=$("${describe[@]}" </dev/null 2>"$gcloud_stderr"); do
    if grep -q NOT_FOUND "$gcloud_stderr"; then
      state=NOT_FOUND
      break
    fi
    failures=$((failures + 1))
    if [ $failures -eq 5 ]; then
      cat "$gcloud_stderr" >&2
      rm -f "$gcloud_stderr"
      die 1 "the state of '$name' in $zone could not be read in $failures attempts; the output of gcloud is above"
    fi
    sleep "$poll_seconds"
  done
  rm -f "$gcloud_stderr"
}

# Returns when the queued resource is ACTIVE. Prints every new state, and an unchanged state every five minutes.
wait_until_active() {
  local printed_state='' start=$SECONDS printed_at=$SECONDS
  while :; do
    describe_state queued-resources ACTIVE
    [ -z "$flag_dry_run" ] || return 0
    if [ "$state" != "$printed_state" ] || [ $((SECONDS - printed_at)) -ge 300 ]; then
      info "$(date +%H:%M:%S) $name: $state, after $(((SECONDS - start) / 60)) min"
      printed_state=$state printed_at=$SECONDS
    fi

    case $state in
      ACTIVE) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) sleep "$poll_seconds" ;;
      *)
        die 1 "'$name' is $state and will not become ACTIVE;" \
          "status.sh --name $name shows why, resume.sh --name $name requests it again"
        ;;
    esac
  done
}
