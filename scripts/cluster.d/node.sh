# One node: namespaces, cgroups and host directories of its own; containerd, kubelet, kube-proxy. Sourced by scripts/cluster.

# Host directories that each node has a copy of.
NODE_DIRS="/var/lib/kubelet /var/log /opt/cmk /opt/bin /etc/cmk /var/lib/cmk"

node() { # NUMBER
  local i=$1 n=node$1 ip=$NET.1$1 pods=10.244.$1.0/24 c g p j t u
  local d=$ROOT/$n
  mkdir -p "$d"/{containerd/cni,kubelet/static,root}
  for c in $HIERARCHIES; do
    g=/sys/fs/cgroup/$c/$(group "$n")
    mkdir -p "$g"
    if [ "$c" = cpuset ]; then cat /sys/fs/cgroup/cpuset/cpuset.cpus >"$g/cpuset.cpus"; cat /sys/fs/cgroup/cpuset/cpuset.mems >"$g/cpuset.mems"; fi
  done
  node_init >"$d/init.sh"
  (
    for c in $HIERARCHIES; do echo $BASHPID >"/sys/fs/cgroup/$c/$(group "$n")/cgroup.procs"; done
    exec setsid unshare -m -p -f -n -u -i -C --kill-child --mount-proc --propagation private bash "$d/init.sh"
  ) >"$d/init.log" 2>&1 </dev/null &
  u=$!
  echo $u >"$d/parent"
  for j in $(seq 600); do [ -f "$d/ready" ] && break; sleep 0.1; done
  pgrep -P $u >"$d/pid" || die "$n did not start: $(cat "$d/init.log")"
  p=$(cat "$d/pid")
  in_net sh -c "ip link add v$n type veth peer name eth0 netns $p; ip link set v$n master cmk0 up"
  nsenter -t "$p" -n sh -c "ip addr add $ip/24 dev eth0; ip link set eth0 up; ip route add default via $CP; sysctl -qw net.ipv4.ip_forward=1"
  in_net ip route replace "$pods" via "$ip"
  containerd_config >"$d/containerd/config.toml"
  cni_config >"$d/containerd/cni/10-bridge.conflist"
  kubelet_config >"$d/kubelet/config.yaml"
  daemon "$n-containerd" "$SELF" node "$i" containerd -c "$d/containerd/config.toml"
  await 180 "containerd of $n" nsenter -t "$p" -m ctr version
  for t in "$IMAGES"/*.tar; do [ ! -e "$t" ] || "$SELF" node "$i" ctr -n k8s.io images import "$t" >>"$d/import.log"; done
  kubelet "$n"
  daemon "$n-proxy" "$SELF" node "$i" "$TOOLS/kube-proxy" --kubeconfig "$RUN/proxy.kubeconfig" --proxy-mode iptables \
    --cluster-cidr 10.244.0.0/16 --hostname-override "$n" --conntrack-max-per-core 0
}

node_init() {
  cat <<EOF
set -e
hostname $n
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in $CONTROLLERS; do mkdir /sys/fs/cgroup/\$c; mount -t cgroup -o \$c cgroup /sys/fs/cgroup/\$c; done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
# kubelet sets these; files mounted over them keep the machine's own values
for kv in kernel/panic:10 kernel/panic_on_oops:1 vm/overcommit_memory:1; do
  f=$d/\$(basename \${kv%:*}); echo \${kv#*:} >\$f; mount --bind \$f /proc/sys/\${kv%:*}
done
exec 9</run # the lock of that file
flock 9
for p in $NODE_DIRS; do
  [ -d \$p ] || { mkdir -p \$p; echo \$p >>$HOST_DIRS; }
  mkdir -p $d/root\$p; mount --bind $d/root\$p \$p
done
exec 9>&-
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock /run/containerd
mount --make-rshared /
ip link set lo up
echo ready >$d/ready
while :; do sleep 3600 & wait \$!; done
EOF
}

containerd_config() {
  cat <<EOF
version = 2
root = "$d/containerd/root"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$d/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # without CAP_SYS_RESOURCE no process can lower oom_score_adj
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$d/containerd/cni"
EOF
}

cni_config() {
  cat <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$d/containerd/ipam"}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
}

kubelet_config() {
  cat <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: $RUN/ca.crt}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
evictionHard: {memory.available: 1Mi, nodefs.available: "1%"}
imageGCHighThresholdPercent: 100
clusterDomain: cluster.local
resolvConf: ""
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
staticPodPath: $d/kubelet/static
# how soon a pod sees a change of its Secret; the default is a minute
syncFrequency: 10s
# the longest wait before a crashing container restarts; the default is five minutes
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
featureGates: {KubeletCrashLoopBackOffMax: true}
EOF
}
