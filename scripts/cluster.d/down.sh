# Takes down a cluster, even if half started, and leaves nothing of it. Sourced by scripts/cluster and scripts/guest.

kill_session() { # PIDFILE: the process and the session it leads
  local p
  p=$(cat "$1" 2>/dev/null) || return 0
  [ -n "$p" ] || return 0
  kill -9 -- "-$p" 2>/dev/null || kill -9 "$p" 2>/dev/null || true
}

stop_kubelet() { # NODE: found by its command line, because nsenter forks to enter the node's pid namespace
  local p
  for p in $(pgrep -f -- "--kubeconfig $RUN/$1.kubeconfig --hostname-override $1" 2>/dev/null); do kill -9 "$p" 2>/dev/null || true; done
}

down_quietly() {
  local d g f p
  for d in "$ROOT"/node*; do
    [ -d "$d" ] || continue
    # The end of its init ends every process of the node's pid namespace, and with the last one its mounts and network are gone.
    [ ! -s "$d/pid" ] || kill -9 "$(cat "$d/pid")" 2>/dev/null || true
    kill_session "$d/parent"
  done
  for f in "$RUN"/*.pid; do [ ! -f "$f" ] || kill_session "$f"; done
  for g in /sys/fs/cgroup/*/cmk-"$NAME"-node*; do
    [ -d "$g" ] || continue
    for _ in $(seq 300); do
      for p in $(find "$g" -name cgroup.procs -exec cat {} + 2>/dev/null); do kill -9 "$p" 2>/dev/null || true; done
      find "$g" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.1
    done
    [ ! -d "$g" ] || die "cgroup $g does not go away: it still holds $(tr '\n' ' ' <"$g/cgroup.procs")"
  done
  give_back_host_dirs
  rm -rf "$ROOT"
}

# Directories that nodes needed and that this machine lacked. Removing one removes the mounts on it from the nodes of all clusters, so the last
# cluster does it.
give_back_host_dirs() {
  local p
  [ -f "$HOST_DIRS" ] || return 0
  (
    flock 9
    for p in $(tac "$HOST_DIRS"); do
      grep -qs " $p " /proc/[0-9]*/mountinfo || rmdir -p --ignore-fail-on-non-empty "$p" 2>/dev/null || true
      [ -d "$p" ] || sed -i "\\,^$p\$,d" "$HOST_DIRS"
    done
    [ -s "$HOST_DIRS" ] || rm -f "$HOST_DIRS"
  ) 9</run # the lock of that file
}
