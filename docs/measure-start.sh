#!/usr/bin/env bash
# Prints how long the server takes from its start to its first answer, on a
# database that exists already (median of five), and how much memory it has when idle.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
pid=
cleanup() { if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi; rm -rf "$dir"; }
trap cleanup EXIT
CGO_ENABLED=0 go build -trimpath -o "$dir/atoll" ./cmd/atoll
port=${PORT:-18008}
export ATOLL_DATA_DIR="$dir/data" ATOLL_LISTENERS="[{address: \"127.0.0.1:$port\"}]"

start() {
  "$dir/atoll" serve 2>>"$dir/log" &
  pid=$!
  until curl -sf "http://127.0.0.1:$port/_matrix/client/versions" >/dev/null; do
    kill -0 "$pid" || { cat "$dir/log" >&2; exit 1; }
    sleep 0.005
  done
}
stop() { kill "$pid"; wait "$pid" || true; pid=; }

start; stop # makes the database
for _ in 1 2 3 4 5; do
  from=$(date +%s%N); start; to=$(date +%s%N)
  echo $(((to - from) / 1000000)) >>"$dir/times"
  sleep 1
  awk '/VmRSS/ {print $2}' "/proc/$pid/status" >>"$dir/memory"
  stop
done
echo "start to first answer: $(sort -n "$dir/times" | sed -n 3p) ms"
echo "resident when idle: $(sort -n "$dir/memory" | sed -n 3p) KiB"
