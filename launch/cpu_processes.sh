#!/usr/bin/env bash
# Runs a command of this package as N processes on this machine, joined over gloo:
#
#   launch/cpu_processes.sh 2 -m invad_jax.train --config configs/procedural.py
#
# Each process is `$PYTHON <arguments> --distributed` (PYTHON: default python3) and has
# JAX_NUM_CPU_DEVICES devices (default 1). What it needs to know is in three variables, which
# `invad_jax/runtime/processes.py` reads: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.
#
# SIGTERM and SIGINT are passed on to every process as SIGTERM: training saves and leaves.
# Exit status: that of the first process that failed, else 0. Once one has failed the others have
# GRACE seconds (default 5) to end by themselves; then they are killed.
set -u

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 N -m invad_jax.COMMAND [arguments]; N: number of processes" >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python3}
grace=${GRACE:-5}

# Below those that the system gives to whoever asks for any: it stays free until JAX has been imported.
port=$("$python" -c '
import os, socket
for i in range(10000):
    port = 20000 + (os.getpid() + i) % 10000
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(port)
        break
else:
    raise SystemExit("no port is free")') || exit 2
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-1}
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port
export JAX_NUM_PROCESSES=$count

running=()
# Children of a script ignore SIGINT, so both signals travel as SIGTERM.
trap 'kill -TERM ${running[@]+"${running[@]}"} 2>/dev/null' TERM INT
for ((id = 0; id < count; id++)); do
  JAX_PROCESS_ID=$id "$python" "$@" --distributed &
  running+=("$!")
done

status=0
deadline=
while ((${#running[@]})); do
  sleep 0.1
  alive=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      alive+=("$pid")
      continue
    fi
    wait "$pid"
    code=$?
    ((status)) || status=$code
  done
  running=(${alive[@]+"${alive[@]}"})
  ((status)) || continue
  deadline=${deadline:-$((SECONDS + grace))}
  if ((${#running[@]} && SECONDS >= deadline)); then
    kill -KILL "${running[@]}" 2>/dev/null
  fi
done
exit "$status"
