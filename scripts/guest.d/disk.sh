# What the machine is made of, in the cache: QEMU and a kernel out of Debian's backports, a root tree with containerd, a disk with the images
# of this run. Sourced by scripts/guest.

QEMU_PACKAGES="qemu-system-x86 qemu-system-common qemu-system-data qemu-utils seabios"
# What QEMU links that a small system does not have.
QEMU_LIBRARIES="libaio1 libbpf1 libcapstone4 libfdt1 libfuse3-3 libibverbs1 libjpeg62-turbo libnuma1 libpixman-1-0 libpmem1 librdmacm1
  libslirp0 liburing2 libvdeplug2 libndctl6 libdaxctl1 libkmod2 libnl-3-200 libnl-route-3-200"
MODULES="virtio_blk failover net_failover virtio_net overlay llc stp bridge veth"
KERNEL=6.12

# The system's own apt, its mirror and keys, on lists of our own: Debian 12's QEMU crashes with this kernel, and nothing is installed.
private_apt() { # COMMAND ARGS...
  apt-get -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$KIT/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$KIT/lists" \
    -o Dir::Cache="$KIT/cache" -o APT::Get::List-Cleanup=0 -qq "$@"
}

make_kit() { # DIRECTORY
  local site names kernel KIT=$1.new
  rm -rf "$KIT" && mkdir -p "$KIT"/{lists/partial,cache/archives/partial,deb,root}
  site=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' | awk '$2 == "bookworm" {print $1; exit}')
  [ -n "$site" ] || die "apt knows no mirror of Debian 12 (bookworm), whose backports have what the machine needs"
  for names in bookworm bookworm-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $names main" >>"$KIT/sources.list"
  done
  private_apt update
  kernel=$(apt-cache -o Dir::Etc::sourcelist="$KIT/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$KIT/lists" \
    -o Dir::Cache="$KIT/cache" pkgnames "linux-image-$KERNEL" | grep -E '^linux-image-[0-9.]+\+deb12-cloud-amd64$' | sort -V | tail -1)
  [ -n "$kernel" ] || die "Debian's backports have no cloud kernel $KERNEL any more: set KERNEL in scripts/guest.d/disk.sh"
  (cd "$KIT/deb" && private_apt -t bookworm-backports download $QEMU_PACKAGES $QEMU_LIBRARIES "$kernel")
  for names in "$KIT"/deb/*.deb; do dpkg -x "$names" "$KIT/root"; done
  mv "$KIT"/root/boot/vmlinuz-* "$KIT/vmlinuz"
  initramfs
  rm -rf "$KIT"/{deb,cache,lists}
  mv "$KIT" "$1"
}

initramfs() {
  local tree=$KIT/initramfs module file
  mkdir -p "$tree"/{bin,proc,dev,newroot,modules}
  cp /bin/busybox "$tree/bin/"
  for module in $MODULES; do
    file=$(find "$KIT/root" -name "$module.ko.xz" | head -1)
    [ -n "$file" ] || die "the kernel has no module $module"
    xz -dc "$file" >"$tree/modules/$module.ko"
    echo "$module" >>"$tree/modules/order"
  done
  cat >"$tree/init" <<'EOI'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m.ko || echo "no module $m"; done
n=0
until [ -b /dev/vda ] || [ $n = 100 ]; do $b sleep 0.1; n=$((n + 1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /newroot || exec $b sh
$b umount /proc
exec $b switch_root /newroot /sbin/guest-init
EOI
  chmod 755 "$tree/init"
  (cd "$tree" && find . | cpio -o -H newc --quiet >"$KIT/initramfs.cpio")
}

make_tree() { # TAR
  local tmp=/tmp d drop=()
  [ "$(df --output=avail -m /dev/shm | tail -1)" -lt 1500 ] || tmp=/dev/shm
  for d in doc man locale i18n; do drop+=("--dpkgopt=path-exclude=/usr/share/$d/*"); done
  TMPDIR=$tmp mmdebstrap --variant=minbase --mode=root --format=tar --dpkgopt=force-unsafe-io "${drop[@]}" \
    --include=python3,containerd,runc,containernetworking-plugins,iproute2,procps,util-linux,busybox-static \
    --aptopt='APT::Install-Recommends "false"' --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' bookworm "$1.new"
  mv "$1.new" "$1"
}

make_disk() { # FILE
  local work=$1.work tree=$1.work/tree
  rm -rf "$work" && mkdir -p "$tree"
  tar -C "$tree" --numeric-owner -xf "$TREE"
  install -m 755 "$TOOLS/kubelet" "$tree/usr/local/bin/"
  install -m 755 "$REPO"/scripts/guest.d/guest-init "$REPO"/scripts/guest.d/exec.py "$tree/sbin/"
  mkdir -p "$tree"/etc/{containerd,cni/net.d,kubernetes/manifests} "$tree"/var/lib/kubelet "$tree"/usr/libexec/kubernetes
  machine_files "$tree"
  bake "$work" "$tree"
  truncate -s 3G "$work/disk"
  mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -d "$tree" "$work/disk"
  mv "$work/disk" "$1"
  rm -rf "$work"
}

machine_files() { # TREE
  echo 0123456789abcdef0123456789abcdef >"$1/etc/machine-id"
  echo "127.0.0.1 localhost node1" >"$1/etc/hosts"
  : >"$1/etc/fstab"
  : >"$1/etc/resolv.conf"
  cat >"$1/etc/containerd/config.toml" <<'EOC'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
EOC
  cat >"$1/etc/cni/net.d/10-bridge.conflist" <<EOC
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOC
  cat >"$1/etc/kubernetes/kubelet.yaml" <<'EOC'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: AlwaysAllow}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failSwapOn: false
evictionHard: {memory.available: 1Mi, nodefs.available: "1%"}
imageGCHighThresholdPercent: 100
volumeStatsAggPeriod: -1s
resolvConf: ""
makeIPTablesUtilChains: false
runtimeRequestTimeout: 10m
EOC
}

bake() { # WORK TREE: container images into the disk, by a containerd of this machine that never runs anything
  local work=$1 tree=$2
  cat >"$work/containerd.toml" <<EOC
version = 2
root = "$tree/var/lib/containerd"
state = "$work/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$work/sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$work/opt"
EOC
  WORK=$work IMAGES="${GUEST_IMAGES[*]}" unshare -m --propagation private bash -ec '
    containerd -c "$WORK/containerd.toml" >"$WORK/containerd.log" 2>&1 &
    for _ in $(seq 600); do ctr -a "$WORK/sock" version >/dev/null 2>&1 && break; sleep 0.1; done
    for image in $IMAGES; do ctr -a "$WORK/sock" -n k8s.io images import "$image"; done
    kill %1
    wait %1 || true'
}
