{{/* securityContext of every container but the agent's. */}}
{{- define "cmk.restricted" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Egress of a NetworkPolicy that allows the ports of the API server only. */}}
{{- define "cmk.apiServerEgress" -}}
egress:
  - ports:
      {{- range .Values.networkPolicy.apiServerPorts | default (list 443 6443) }}
      - {port: {{ . }}, protocol: TCP}
      {{- end }}
{{- end -}}
