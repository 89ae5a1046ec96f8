# The control plane: keys, tokens, etcd, API server, controller manager, scheduler. Sourced by scripts/cluster and scripts/guest.

certificate() { # NAME SUBJECT SAN
  openssl ecparam -name prime256v1 -genkey -noout -out "$RUN/$1.key"
  openssl req -new -key "$RUN/$1.key" -subj "$2" | openssl x509 -req -CA "$RUN/ca.crt" -CAkey "$RUN/ca.key" -CAcreateserial -days 3650 \
    -out "$RUN/$1.crt" -extfile <(echo "subjectAltName=$3"; echo "extendedKeyUsage=serverAuth,clientAuth") 2>/dev/null
}

kubeconfig() { # USER, whose token is its name with a random tail
  cat >"$RUN/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
current-context: cmk
contexts: [{name: cmk, context: {cluster: cmk, user: $1}}]
users: [{name: $1, user: {token: "$1-$TOKEN"}}]
clusters: [{name: cmk, cluster: {server: "https://$CP:6443", certificate-authority: $RUN/ca.crt}}]
Y
  chmod 600 "$RUN/$1.kubeconfig"
}

network() {
  local u i
  setsid unshare -n --kill-child -f sleep infinity >/dev/null 2>&1 </dev/null &
  u=$!
  for i in $(seq 600); do pgrep -P $u >"$RUN/net.pid" && break; sleep 0.1; done
  echo $u >"$RUN/net-parent.pid"
  in_net sh -c "ip link set lo up; ip link add cmk0 type bridge; ip addr add $CP/24 dev cmk0; ip link set cmk0 up; sysctl -qw net.ipv4.ip_forward=1"
}

control_plane() {
  local i
  network
  openssl ecparam -name prime256v1 -genkey -noout -out "$RUN/ca.key"
  openssl req -x509 -new -key "$RUN/ca.key" -subj /CN=cmk-ca -days 3650 -out "$RUN/ca.crt"
  certificate apiserver /CN=kube-apiserver "IP:$CP,IP:10.96.0.1,IP:127.0.0.1,DNS:kubernetes.default.svc"
  certificate kubelet-client /O=system:masters/CN=apiserver-kubelet DNS:apiserver
  certificate webhook-client /CN=kube-apiserver DNS:apiserver
  openssl genrsa -out "$RUN/sa.key" 2048 2>/dev/null
  TOKEN=$(openssl rand -hex 16)
  {
    echo "admin-$TOKEN,admin,1,\"system:masters\""
    echo "kcm-$TOKEN,system:kube-controller-manager,2"
    echo "scheduler-$TOKEN,system:kube-scheduler,3"
    echo "proxy-$TOKEN,system:kube-proxy,4"
    for i in $(seq 8); do echo "node$i-$TOKEN,system:node:node$i,1$i,\"system:nodes\""; done
  } >"$RUN/tokens.csv"
  for i in admin kcm scheduler proxy $(seq -f node%g 8); do kubeconfig "$i"; done

  # The cluster does not survive a power cut anyway: etcd need not sync.
  daemon etcd nsenter -t "$(cat "$RUN/net.pid")" -n etcd --data-dir "$RUN/etcd" --unsafe-no-fsync
  api_server
  await 180 "the API server" kubectl get --raw /readyz
  daemon kcm nsenter -t "$(cat "$RUN/net.pid")" -n "$TOOLS/kube-controller-manager" --kubeconfig "$RUN/kcm.kubeconfig" \
    --service-account-private-key-file "$RUN/sa.key" --root-ca-file "$RUN/ca.crt" --leader-elect=false \
    --use-service-account-credentials --allocate-node-cidrs=true --cluster-cidr 10.244.0.0/16 --configure-cloud-routes=false
  daemon scheduler nsenter -t "$(cat "$RUN/net.pid")" -n "$TOOLS/kube-scheduler" --kubeconfig "$RUN/scheduler.kubeconfig" --leader-elect=false
}

# The API server's client certificate for webhooks that require one.
admission() {
  cat >"$RUN/webhooks.kubeconfig" <<Y
apiVersion: v1
kind: Config
users: [{name: "*", user: {client-certificate: $RUN/webhook-client.crt, client-key: $RUN/webhook-client.key}}]
Y
  cat >"$RUN/admission.yaml" <<Y
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: MutatingAdmissionWebhook
    configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: $RUN/webhooks.kubeconfig}
Y
}

api_server() {
  admission
  # The API server connects to webhooks' endpoints itself (aggregator routing), because no kube-proxy runs beside it.
  daemon apiserver nsenter -t "$(cat "$RUN/net.pid")" -n "$TOOLS/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
    --bind-address $CP --advertise-address $CP --tls-cert-file "$RUN/apiserver.crt" --tls-private-key-file "$RUN/apiserver.key" \
    --client-ca-file "$RUN/ca.crt" --token-auth-file "$RUN/tokens.csv" --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$RUN/sa.key" --service-account-signing-key-file "$RUN/sa.key" --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction --service-cluster-ip-range 10.96.0.0/16 --allow-privileged \
    --kubelet-client-certificate "$RUN/kubelet-client.crt" --kubelet-client-key "$RUN/kubelet-client.key" \
    --kubelet-preferred-address-types InternalIP --enable-aggregator-routing=true \
    --admission-control-config-file "$RUN/admission.yaml"
}
