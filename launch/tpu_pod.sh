#!/bin/bash
# Trains or evaluates on every worker of a Cloud TPU slice; starts again after a preemption.
#
#   launch/tpu_pod.sh run MAIN OPTION...   create, set up, start, watch, until it is finished
#   launch/tpu_pod.sh all MAIN OPTION...   run, then delete, whatever the end was, unless another
#                                          command runs there, or gcloud never says what there is
#   launch/tpu_pod.sh create | setup | status | delete
#
# MAIN is train, train_vae, eval, sweep or predict; give --workdir, in a bucket or a folder that all workers share. The run lives on
# the workers: it goes on when this script is interrupted, and `run` then watches it again.
#
# Environment, with the defaults:
#   NAME=invad                     of the queued resource and its node
#   ZONE=us-west4-a
#   ACCELERATOR=v5litepod-16
#   RUNTIME=v2-alpha-tpuv5-lite
#   FLAGS=                         more for `queued-resources create`, such as --spot
#   MOUNT=                         command that each worker runs at set-up: mounts a shared folder,
#                                  where there is no bucket; must be safe to run twice
#   INVAD_CACHE=                   of weights and latents: in a bucket, or a folder on the workers
#   POLL=60                        seconds between two looks
#   MAX_FAILURES=3                 starts in a row that end without a new checkpoint
set -uo pipefail

NAME=${NAME:-invad} ZONE=${ZONE:-us-west4-a}
ACCELERATOR=${ACCELERATOR:-v5litepod-16} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
POLL=${POLL:-60} MAX_FAILURES=${MAX_FAILURES:-3}
project=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "tpu_pod: $*" >&2; }
die() {
  say "$*"
  exit 1
}
LEFT_ALONE=3 # status where something may still run on the slice, which is not deleted then

# The state of the queued resource; ABSENT if there is none, UNKNOWN if it cannot be asked.
state() {
  local answer
  if answer=$(gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
    --format='value(state.state)' 2>&1); then
    tail -n 1 <<<"$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo ABSENT
  else
    say "$answer"
    echo UNKNOWN
  fi
}

on() { # on all|NUMBER COMMAND
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

create() {
  local flags found unknown=0
  read -r -a flags <<<"${FLAGS:-}"
  while :; do
    found=$(state)
    [ "$found" = UNKNOWN ] || answered=yes
    case $found in
      ACTIVE) return ;;
      ABSENT)
        say "asking for $ACCELERATOR"
        gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
          --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" \
          ${flags[@]+"${flags[@]}"} || die "the request was refused"
        ;;
      SUSPENDED) # its machines are gone and it never gets others: make room for a new request
        say "preempted"
        delete
        ;;
      FAILED) die "the request failed: gcloud compute tpus queued-resources describe $NAME" ;;
      UNKNOWN) # for a moment, or, if it never said anything, for good
        unknown=$((unknown + 1))
        if [ -z "${answered:-}" ] && [ $unknown -ge 5 ]; then
          say "gcloud does not say what there is, see above"
          exit $LEFT_ALONE
        fi
        ;;
      *) ;; # waiting, being made or unmade
    esac
    sleep "$POLL"
  done
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

setup() {
  local archive
  archive=$(mktemp) || return
  tar -czf "$archive" -C "$project" --exclude=__pycache__ \
    README.md LICENSE pyproject.toml requirements.txt invad_jax configs launch &&
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:invad.tar.gz" --zone="$ZONE" --worker=all &&
    on all "set -e
      ${MOUNT:-true}
      mkdir -p invad
      tar -xzf invad.tar.gz -C invad
      [ -x venv/bin/python ] || {
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --python 3.12 venv
      }
      python3 -m uv pip install --quiet --python venv/bin/python --editable './invad[cloud]' 'jax[tpu]'"
  local status=$?
  rm -f "$archive"
  return $status
}

# On a worker: whether the process of run.pid is ours (numbers are used again after a reboot).
# shellcheck disable=SC2016 # expanded there
alive='alive() { grep -qs invad_jax "/proc/$(cat run.pid 2>/dev/null)/cmdline"; }'

start() { # start MAIN OPTION...; detached, so that it outlives the connection
  local command
  printf -v command '%q ' ../venv/bin/python -m "invad_jax.$1" --distributed "${@:2}"
  printf -v command '%q' "trap : TERM; $command; echo \$? >../run.status"
  on all "$alive
    if alive; then kill -KILL -- -\$(cat run.pid); fi
    rm -f run.status
    ${INVAD_CACHE:+export INVAD_CACHE=$(printf %q "$INVAD_CACHE")}
    cd invad
    setsid bash -c $command >>../run.log 2>&1 </dev/null &
    echo \$! >../run.pid"
}

# Of worker 0: `running`, `other`, `none`, or the exit status; nothing if it cannot be asked. If another
# process dies, so does that one.
probe() { # probe [MAIN]
  on 0 "$alive
    if alive; then
      grep -qs 'invad_jax.${1:+$1 }' \"/proc/\$(cat run.pid)/cmdline\" && echo running || echo other
    elif [ -e run.status ]; then cat run.status; else echo none; fi" \
    2>/dev/null | tail -n 1
}

show_log() { on 0 "tail -c 2000 run.log | tr '\r' '\n' | tail -n ${1:-20}" >&2; }

# Returns the exit status of the run; 143 if the slice was taken away, 255 if a worker is lost.
watch() { # watch MAIN
  local misses=0 found
  while :; do
    case $(state) in ACTIVE | UNKNOWN) ;; *) return 143 ;; esac
    found=$(probe "$1")
    case $found in
      running) misses=0 ;;
      [0-9]*) return "$found" ;;
      *) # unreachable or rebooted; once or twice may be the network
        misses=$((misses + 1))
        [ $misses -lt 3 ] || return 255
        ;;
    esac
    sleep "$POLL"
  done
}

# Prints the newest step of a training; false if that is not its last.
finished() { # finished MAIN WORKDIR
  case $1 in
    train*) on 0 "cd invad && ../venv/bin/python launch/finished.py $(printf %q "$2")" | tail -n 1 ;;
  esac
}

workdir_of() {
  while [ $# -gt 1 ]; do
    case $2 in --workdir=*) echo "${2#*=}" && return ;; esac
    [ "$1" != --workdir ] || { echo "$2" && return; }
    shift
  done
  die "give --workdir DIR, in a bucket or a folder that all workers share"
}

run() { # run MAIN OPTION...
  local failures=0 step='' before='' status workdir found misses=0
  workdir=$(workdir_of "$@") || exit 1
  while :; do
    create
    found=$(probe "$1")
    if [ -z "$found" ] && [ $misses -lt 2 ]; then # may be the network: a start would end what runs
      misses=$((misses + 1))
      sleep "$POLL"
      continue
    fi
    misses=0
    if [ "$found" = other ]; then
      say "another command runs there, see: $0 status"
      exit $LEFT_ALONE
    fi
    if [ "$found" != running ]; then
      say "starting $1"
      setup && start "$@" # if not, there is nothing to watch, and that is a failure
    fi
    watch "$1"
    status=$?
    [ $status -ne 143 ] || continue # no failure: `create` asks for another slice
    if [ $status -eq 2 ]; then
      show_log
      die "$1 refused its options, see above; the slice is still there"
    elif step=$(finished "$1" "$workdir") && [ $status -eq 0 ]; then
      say "$1 is finished"
      return
    else
      say "$1 ended with status $status at step ${step:-?}"
    fi
    failures=$((failures + 1))
    [ "$step" = "$before" ] || failures=0
    before=$step
    if [ $failures -ge "$MAX_FAILURES" ]; then
      show_log
      die "$failures starts without a new checkpoint; the slice is still there"
    fi
  done
}

case ${1:-} in
  create | setup) "$1" ;;
  delete) delete ;;
  run) run "${@:2}" ;;
  all)
    (run "${@:2}")
    status=$?
    [ $status -eq $LEFT_ALONE ] || delete
    exit $status
    ;;
  status)
    state
    probe
    show_log 5
    ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "$0" >&2
    exit 2
    ;;
esac
