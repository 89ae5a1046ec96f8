"""The mutations that Intel CMK's documentation shows."""

MUTATIONS = """
mutations:
  perPod:
    metadata:
      annotations:
        cmk.intel.com/resources-injected: "true"
    spec:
      serviceAccount: cmk-serviceaccount
      tolerations:
      - operator: Exists
      volumes:
      - name: cmk-host-proc
        hostPath:
          path: "/proc"
      - name: cmk-install-dir
        hostPath:
          path: "/opt/bin"
  perContainer:
    env:
    - name: CMK_PROC_FS
      value: "/host/proc"
    volumeMounts:
    - name: cmk-host-proc
      mountPath: /host/proc
      readOnly: true
    - name: cmk-install-dir
      mountPath: /opt/bin
"""
SERVER = """
server:
  binding-address: "0.0.0.0"
  port: 443
  cert: "/etc/ssl/cert.pem"
  key: "/etc/ssl/key.pem"
  mutations: "{mutations}"
"""
