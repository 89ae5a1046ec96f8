# Starts, saves, loads and stops the machine. Sourced by scripts/guest.

CPUS=16
MEMORY=4

vm() { # DISK ISOLCPUS [QEMU ARGS...]: two sockets of four cores with two threads, siblings side by side, a NUMA node for each socket
  local disk=$1 isolated=$2 q=$KIT/root
  shift 2
  rm -f "$RUN"/vm.{console,monitor}
  LD_LIBRARY_PATH=$q/usr/lib/x86_64-linux-gnu:$q/lib/x86_64-linux-gnu QEMU_MODULE_DIR=/nonexistent \
    daemon vm nsenter -t "$(cat "$RUN/net.pid")" -n "$q/usr/bin/qemu-system-x86_64" -L "$q/usr/share/qemu" -L "$q/usr/share/seabios" \
    -accel tcg,thread=multi -M q35 -cpu max,vendor=GenuineIntel,la57=off -m ${MEMORY}G -smp $CPUS,sockets=2,cores=4,threads=2 \
    -object memory-backend-ram,id=m0,size=$((MEMORY * 512))M -object memory-backend-ram,id=m1,size=$((MEMORY * 512))M \
    -numa node,nodeid=0,cpus=0-7,memdev=m0 -numa node,nodeid=1,cpus=8-15,memdev=m1 \
    -drive file="$disk",if=none,id=d0,format=qcow2,cache=unsafe -device virtio-blk-pci,drive=d0 \
    -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n0,romfile= \
    -nodefaults -display none -serial file:"$RUN/vm.console" -monitor unix:"$RUN/vm.monitor,server,nowait" -no-reboot \
    -kernel "$KIT/vmlinuz" -initrd "$KIT/initramfs.cpio" \
    -append "console=ttyS0 panic=-1 quiet mitigations=off nowatchdog preempt=none audit=0 isolcpus=$isolated" "$@"
}

tap() { in_net sh -c "ip tuntap add tap0 mode tap; ip link set tap0 master cmk0 up; ip neigh flush all; ip route replace $PODS via $NODE"; }

inside() { # SECONDS COMMAND...: as root in the guest; SECONDS to wait for it to answer
  in_net python3 -I -S "$REPO/scripts/guest.d/exec.py" run "$NODE" "$@"
}

monitor() { # COMMAND...
  python3 - "$RUN/vm.monitor" "$@" <<'EOP'
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.settimeout(300)
def answer():
    text = b""
    while not text.endswith(b"(qemu) "):
        part = connection.recv(65536)
        if not part:
            break
        text += part
    return text
answer()
for command in sys.argv[2:]:
    connection.sendall(command.encode() + b"\n")
    text = answer()
    if b"Error" in text:
        sys.exit(text.decode(errors="replace"))
EOP
}

boot() { # DISK ISOLCPUS: a cold start now and then hangs before its init; a machine that others load may need ten times as long as a quiet one
  local seconds
  for seconds in 30 120 300; do
    vm "$1" "$2"
    for _ in $(seq $((seconds * 10))); do
      grep -aq '^guest: up' "$RUN/vm.console" 2>/dev/null && return
      kill -0 "$(cat "$RUN/vm.pid")" 2>/dev/null || break
      sleep 0.1
    done
    kill_session "$RUN/vm.pid"
  done
  die "the guest does not start; its console is $RUN/vm.console, QEMU's words are in $RUN/vm.log"
}

make_snapshot() { # FILE ISOLCPUS: containerd is up, kubelet has never run
  local q=$KIT/root
  rm -f "$1.new"
  LD_LIBRARY_PATH=$q/usr/lib/x86_64-linux-gnu "$q/usr/bin/qemu-img" create -q -f qcow2 -b "$DISK" -F raw "$1.new"
  down_quietly
  mkdir -p "$RUN"
  network
  tap
  boot "$1.new" "$2"
  # Read once the files that every start reads, so that they are in the saved page cache.
  inside 300 sh -c 'until ctr version >/dev/null 2>&1; do sleep 0.3; done
    cat /usr/local/bin/kubelet /usr/bin/runc /usr/bin/containerd-shim-runc-v2 /usr/lib/cni/bridge /usr/lib/cni/host-local >/dev/null; sync'
  monitor stop "savevm ready" quit
  for _ in $(seq 600); do kill -0 "$(cat "$RUN/vm.pid")" 2>/dev/null || break; sleep 0.1; done
  down_quietly
  mv "$1.new" "$1"
}
