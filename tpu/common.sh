#!/usr/bin/env bash
# What the scripts of this folder share: flags, settings, slice types, and the one place that calls gcloud.
#
# A setting comes from a flag, else from ~/.config/corl_jax/tpu/NAME.env (written by the scripts, one file per TPU; a new
# TPU does not look there), else from the environment: CORL_TPU_NAME, _ZONE, _PROJECT, _TYPE, _RUNTIME, _SPOT, _VALID_UNTIL.
# In a dry run the commands go to stdout. All that is said goes to stderr. Written for bash 3.2, which macOS has.
# shellcheck disable=SC2034  # much is used only by the scripts that source this file
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${here%/*}
folder=${XDG_CONFIG_HOME:-$HOME/.config}/corl_jax/tpu
poll=${CORL_TPU_POLL:-30} # seconds between two looks at a queued resource
script=$(basename "$0")

say() { printf '%s\n' "$*" >&2; }

# Ends the script with one line and an exit code: 2 where the call was wrong, 1 where the cloud or a worker said no.
die() {
  local code=$1
  shift
  say "error: $*"
  exit "$code"
}

# A word as a shell reads it back, in single quotes where it needs any; of --flag=VALUE only the value is quoted.
quote() {
  local word=$1 flag='' tick="'" escaped="'\\''"
  if [[ $word =~ ^--[a-zA-Z0-9_.-]+= ]]; then
    flag=${BASH_REMATCH[0]}
    word=${word#"$flag"}
  fi
  if [[ $word =~ ^[A-Za-z0-9_./:@%+,=-]+$ || (-z $word && -n $flag) ]]; then
    printf '%s' "$flag$word"
  else
    printf '%s' "$flag'${word//$tick/$escaped}'"
  fi
}

quoted() {
  local word space=''
  for word; do
    printf '%s' "$space"
    quote "$word"
    space=' '
  done
}

# --- flags --------------------------------------------------------------------------------------------------------

usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

flag_name='' flag_zone='' flag_project='' flag_type='' flag_runtime='' flag_valid_until_duration=''
flag_python='' flag_commit='' flag_worker='' flag_lines=''
flag_spot='' flag_dry_run='' flag_yes='' flag_forget='' flag_again='' flag_allow_dirty='' flag_wait=''
program=() # flags of corl_jax.main
extra=()   # flags of gcloud, after --

# parse "FLAGS WITH A VALUE" "SWITCHES" "$@": sets flag_*, program and extra. The words program and -- stand for
# the flags of corl_jax.main and for whatever follows --.
parse() {
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
        [[ $values == *" -- "* ]] || die 2 "unexpected argument '--'; $script --help lists the flags"
        shift
        extra=("$@")
        [[ " $* " != *" --dry-run "* ]] || die 2 "--dry-run after -- would go to gcloud; expected it before"
        return
        ;;
      --config | --config.* | --config=* | --workdir | --workdir=*)
        [[ $values == *" program "* ]] || die 2 "'$1' is a flag of the run; give it to run.sh"
        [[ $1 == *=* ]] || die 2 "'$1' has no value; expected --$flag=VALUE in one word"
        program+=("$1")
        ;;
      --*)
        if [[ $switches == *" $flag "* ]]; then
          [ "$1" = "--$flag" ] || die 2 "'$1': --$flag takes no value"
          value=1
        elif [[ $values == *" $flag "* && $flag != program ]]; then
          if [[ $1 == *=* ]]; then
            value=${1#*=}
          else
            [ $# -ge 2 ] || die 2 "--$flag has no value; $script --help shows one"
            value=$2
            shift
          fi
          [[ -n $value && $value != --* ]] || die 2 "--$flag has no value but '$value'; $script --help shows one"
        else
          die 2 "unknown flag '$1'; $script --help lists the flags"
        fi
        printf -v "flag_${flag//-/_}" '%s' "$value"
        ;;
      *) die 2 "unexpected argument '$1'; $script --help lists the flags" ;;
    esac
    shift
  done
}

# --- settings -----------------------------------------------------------------------------------------------------

# Sets name, zone, project, type, runtime, spot, valid_until, more (flags for gcloud), command and commit. `settings new`
# takes only the last two, what was run last, from the file.
settings() {
  name=${flag_name:-${CORL_TPU_NAME:-}}
  [ -n "$name" ] || die 2 "--name is missing; expected for example --name demo"
  [[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    die 2 "--name '$name': expected lower-case letters, digits and dashes, for example demo-1"
  file=$folder/$name.env
  CORL_TPU_EXTRA='' CORL_TPU_RUN='' CORL_TPU_COMMIT=''
  # shellcheck disable=SC1090,SC2030,SC2031  # known only now
  if [ -e "$file" ] && [ "${1:-}" = new ]; then
    command=$(. "$file" && printf '%s' "$CORL_TPU_RUN")
    commit=$(. "$file" && printf '%s' "$CORL_TPU_COMMIT")
    CORL_TPU_RUN=$command CORL_TPU_COMMIT=$commit
  elif [ -e "$file" ]; then
    . "$file"
  fi
  zone=${flag_zone:-${CORL_TPU_ZONE:-}}
  project=${flag_project:-${CORL_TPU_PROJECT:-}}
  type=${flag_type:-${CORL_TPU_TYPE:-}}
  spot=${flag_spot:-${CORL_TPU_SPOT:-}}
  valid_until=${flag_valid_until_duration:-${CORL_TPU_VALID_UNTIL:-}}
  runtime=${flag_runtime:-${CORL_TPU_RUNTIME:-}}
  more=$CORL_TPU_EXTRA command=$CORL_TPU_RUN commit=$CORL_TPU_COMMIT
  if [ ${#extra[@]} -gt 0 ]; then more=$(quoted "${extra[@]}"); fi
  [ -n "$zone" ] || die 2 "--zone is missing, and nothing is remembered in $file; expected for example --zone us-west4-a"
  [[ $zone =~ ^[a-z]+-[a-z0-9]+-[a-z0-9]+$ ]] || die 2 "--zone '$zone' is no zone; expected for example us-west4-a"
  place=("--zone=$zone")
  if [ -n "$project" ]; then place+=("--project=$project"); fi
}

# Sets chips, workers (the VMs of the slice) and, unless it was chosen, runtime. v4 and v5p names count TensorCores, two
# to a chip; v5e and v6e names count chips.
slice() {
  local hint='expected v5litepod-N, v6e-N, v5p-N or v4-N, for example --type v5litepod-8'
  [ -n "$type" ] || die 2 "--type is missing, and nothing is remembered in $file; $hint"
  [[ $type != v5e-* ]] || die 2 "--type '$type': Google Cloud calls it v5litepod-${type#v5e-}"
  [[ $type =~ ^(v5litepod|v6e|v5p|v4)-([1-9][0-9]{0,4})$ ]] || die 2 "unknown --type '$type'; $hint"
  local generation=${BASH_REMATCH[1]} size=${BASH_REMATCH[2]} usual
  case $generation in
    v5litepod | v6e)
      [[ " 1 4 8 16 32 64 128 256 " == *" $size "* ]] ||
        die 2 "--type '$type' has no such size; expected $generation-1, -4, -8, -16, -32, -64, -128 or -256"
      chips=$size workers=1
      if [ "$size" -gt 8 ]; then workers=$((size / 4)); fi
      ;;
    v5p | v4)
      [ $((size % 8)) -eq 0 ] || die 2 "--type '$type' has no such size; expected $generation-8 or a multiple, 8 TensorCores to a host"
      chips=$((size / 2)) workers=$((size / 8))
      ;;
  esac
  case $generation in
    v5litepod) usual=v2-alpha-tpuv5-lite ;;
    v5p) usual=v2-alpha-tpuv5 ;;
    v6e) usual=v2-alpha-tpuv6e ;;
    v4) usual=tpu-ubuntu2204-base ;;
  esac
  runtime=${runtime:-$usual}
}

# Writes the settings down, so that the other scripts need only --name.
remember() {
  [ -z "$flag_dry_run" ] || return 0
  local key
  mkdir -p "$folder"
  (
    umask 077 # a run may have a token among its flags
    CORL_TPU_ZONE=$zone CORL_TPU_PROJECT=$project CORL_TPU_TYPE=$type CORL_TPU_RUNTIME=$runtime CORL_TPU_SPOT=$spot
    CORL_TPU_VALID_UNTIL=$valid_until CORL_TPU_EXTRA=$more CORL_TPU_RUN=$command CORL_TPU_COMMIT=$commit
    for key in ZONE PROJECT TYPE RUNTIME SPOT VALID_UNTIL EXTRA RUN COMMIT; do
      key=CORL_TPU_$key
      printf '%s=%s\n' "$key" "$(quote "${!key}")"
    done >"$file.new"
    mv "$file.new" "$file"
  )
}

# --- gcloud -------------------------------------------------------------------------------------------------------

# Runs a command, or prints it in a dry run.
call() {
  if [ -n "$flag_dry_run" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@" || die 1 "'$1 ${*:2:4}' failed with exit code $?; its own words are above"
  fi
}

need_gcloud() {
  [ -n "$flag_dry_run" ] || command -v gcloud >/dev/null ||
    die 2 "gcloud is not on PATH; install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install) and log in"
}

queue() { call gcloud compute tpus queued-resources "$@"; }
copy() { call gcloud compute tpus tpu-vm scp "$1" "$name:$2" "${place[@]}" --worker=all; }
on_all() { call gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$*"; }

# Sets state to what `describe` says of the queued resource (look queued-resources) or of its node (look tpu-vm);
# NOT_FOUND where there is none. In a dry run it prints the command and takes the second word for the answer. Five
# failures in a row are an error.
look() {
  local kind=$1 expected=$2 field=state words tries=0
  if [ "$kind" = queued-resources ]; then field=state.state; fi
  local line=(gcloud compute tpus "$kind" describe "$name" "${place[@]}" "--format=value($field)")
  if [ -n "$flag_dry_run" ]; then
    call "${line[@]}"
    state=$expected
    return
  fi
  words=$(mktemp)
  while ! state=$("${line[@]}" </dev/null 2>"$words"); do
    if grep -q NOT_FOUND "$words"; then
      state=NOT_FOUND
      break
    fi
    tries=$((tries + 1))
    if [ $tries -eq 5 ]; then
      cat "$words" >&2
      rm -f "$words"
      die 1 "no state of '$name' in $zone after $tries tries; gcloud's own words are above"
    fi
    sleep "$poll"
  done
  rm -f "$words"
}

# Returns when the queued resource is ACTIVE; says every new state, and every five minutes that it still waits.
wait_until_active() {
  local last='' start=$SECONDS told=$SECONDS
  while :; do
    look queued-resources ACTIVE
    [ -z "$flag_dry_run" ] || return 0
    if [ "$state" != "$last" ] || [ $((SECONDS - told)) -ge 300 ]; then
      say "$(date +%H:%M:%S) $name: $state, after $(((SECONDS - start) / 60)) min"
      last=$state told=$SECONDS
    fi
    case $state in
      ACTIVE) return ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) sleep "$poll" ;;
      *) die 1 "'$name' is $state and will not become ACTIVE; status.sh --name $name shows why, resume.sh --name $name asks again" ;;
    esac
  done
}
