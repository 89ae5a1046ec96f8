# Shared by the shell scripts: directories, messages, steps and packages. Sourced, never run.
set -euo pipefail
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CMK_CACHE=${CMK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cmk}
TOOLS=$CMK_CACHE/bin
LOGS=$CMK_CACHE/logs
mkdir -p "$TOOLS" "$LOGS"
export CMK_CACHE

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The comment block at the head of a script is its help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//;t p;b;:p;p}' "$0"; }
help_asked() { for a in "$@"; do case $a in -h | --help) usage; exit 0 ;; esac; done; }

# step LABEL CMD...: run CMD with its output in a log; print its start, that it still runs, and its time. On failure, print the log's end.
step() {
  local label=$1 start=$SECONDS log rc=0 pid beat=${CMK_BEAT:-20}; shift
  log=$LOGS/$(tr -cs 'a-zA-Z0-9\n' - <<<"$label").log
  say "  .. $label"
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 $pid 2>/dev/null; do
    for _ in $(seq $((beat * 10))); do kill -0 $pid 2>/dev/null || break 2; sleep 0.1; done
    say "     $label: $((SECONDS - start)) s so far"
  done
  wait $pid || rc=$?
  if [ $rc -ne 0 ]; then
    tail -n 30 "$log" >&2
    say "  !! $label failed (exit $rc); all of its output: $log"
    return $rc
  fi
  say "  ok $label ($((SECONDS - start)) s)"
}

# once PATH COMMAND...: make PATH with COMMAND unless it exists; of several callers at the same time, one makes it and the others wait.
once() {
  local path=$1
  shift
  [ -e "$path" ] || (
    flock -n 9 || { say "  .. waiting for another that makes ${path##*/}"; flock 9; }
    [ -e "$path" ] || "$@" 9>&-
  ) 9>"$path.lock"
}

# Install missing Debian packages with one call of apt. NAME is a command, or a path that must exist.
apt_need() { # NAME=PACKAGE...
  local miss=() spec
  for spec in "$@"; do [[ ${spec%%=*} == /* && -e ${spec%%=*} ]] || have "${spec%%=*}" || miss+=("${spec#*=}"); done
  [ ${#miss[@]} -gt 0 ] || return 0
  have apt-get || die "missing ${miss[*]} and no apt-get here: install them, then run this again"
  [ "$(id -u)" = 0 ] || die "missing packages: ${miss[*]}; run as root, or install them first"
  step "apt: ${miss[*]}" apt_install "${miss[@]}"
}
apt_install() {
  local policy=/usr/sbin/policy-rc.d rc=0
  # The cluster starts its own daemons; a package must not start the host's.
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; else policy=; fi
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"; } || rc=$?
  [ -z "$policy" ] || rm -f "$policy"
  return $rc
}
