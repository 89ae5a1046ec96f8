# Functions that scripts/cluster and scripts/guest share. Both set NAME, ROOT and RUN first.

HOST_DIRS=/run/cmk-host-directories # directories that clusters have made on this machine, of all caches

in_net() { nsenter -t "$(cat "$RUN/net.pid")" -n -- "$@"; }
kubectl() { in_net "$TOOLS/kubectl" --kubeconfig "$RUN/admin.kubeconfig" "$@"; }
daemon() { # NAME COMMAND...: in the background, with log and pid in RUN
  local name=$1
  shift
  (setsid "$@" >"$RUN/$name.log" 2>&1 </dev/null & echo $! >"$RUN/$name.pid")
}
await() { # SECONDS WHAT COMMAND...
  local tries=$(($1 * 5)) what=$2
  shift 2
  for _ in $(seq $tries); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  die "$what did not come up; logs are in $RUN"
}
run_inside() { export KUBECONFIG=$RUN/admin.kubeconfig PATH=$TOOLS:$PATH; in_net "$@"; }
