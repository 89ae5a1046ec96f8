{{/*
Defaults of the node configuration. They live here and not in values.yaml, so that --reuse-values from an older release never meets a nil
and a user's value can be told from a default.
*/}}
{{- define "cmk.defaults" -}}
pools:
  exclusive: {cores: 4, exclusive: true, mode: packed}
  shared: {cores: 1, exclusive: false, mode: packed}
  infra: {cores: rest, exclusive: false, mode: packed}
taint: true
paused: false
reserved: ""
isolation: {pods: true, ownPod: true, host: "off", irqs: "off", partition: "off", idle: reserved}
origins: {}
{{- end -}}

{{/* The selection in effect: no selector, no names and not all means the label of StarlingX. */}}
{{- define "cmk.selection" -}}
{{- $nodes := .Values.nodes | default dict -}}
{{- $selector := $nodes.selector | default dict -}}
{{- $names := $nodes.names | default list -}}
{{- if and (empty $selector) (empty $names) (not $nodes.all) -}}
{{- $selector = dict "cmk-node" "enabled" -}}
{{- end -}}
{{- dict "all" ($nodes.all | default false) "names" $names "selector" $selector | toJson -}}
{{- end -}}

{{/* Defaults of what came after the first release, for the same reason. */}}
{{- define "cmk.webhook.defaults" -}}
enabled: true
replicas: 2
failurePolicy: Fail
timeoutSeconds: 5
mutations: {}
clientCA: {}
namespaceSelector: {}
port: 8443
healthPort: 8087
logLevel: INFO
logFormat: text
priorityClassName: system-cluster-critical
nodeSelector: {}
# The webhook must run where only our own taint, or only control planes, are left.
tolerations:
  - {key: cmk, operator: Exists, effect: NoSchedule}
  - {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
  - {key: node-role.kubernetes.io/master, operator: Exists, effect: NoSchedule}
resources:
  requests: {cpu: 50m, memory: 64Mi}
  limits: {memory: 256Mi}
keeperResources:
  requests: {cpu: 10m, memory: 48Mi}
  limits: {memory: 128Mi}
deploymentName: ""
podLabels: {}
podAnnotations: {}
pdb: {enabled: true}
certificates: {mode: hooks, lifetimeHours: 2160, secretName: "", issuerRef: {}}
{{- end -}}
{{- define "cmk.workloads.defaults" -}}
requireRequest: enforce
mountPath: /opt/bin
unsupportedRuntimeClasses: []
cpuRequests: "off"
{{- end -}}

{{- define "cmk.hooks.defaults" -}}
backoffLimit: 3
activeDeadlineSeconds: 180
priorityClassName: ""
nodeSelector: {}
# A hook must run where only our own taint, or only control planes, are left. Not where the kubelet stands: bound to such a node, which soon is
# the emptiest of all, it waits until its time is up.
tolerations:
  - {key: cmk, operator: Exists}
  - {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
  - {key: node-role.kubernetes.io/master, operator: Exists, effect: NoSchedule}
{{- end -}}

{{- define "cmk.hooks" -}}{{ include "cmk.over" (list (include "cmk.hooks.defaults" . | fromYaml) .Values.hooks) }}{{- end -}}
{{- define "cmk.plan" -}}{{ include "cmk.over" (list (dict "enabled" true) .Values.plan) }}{{- end -}}
{{- define "cmk.verify" -}}{{ include "cmk.over" (list (dict "enabled" true "timeoutSeconds" 240 "maxFailures" 0) .Values.verify) }}{{- end -}}
{{- define "cmk.rollout" -}}{{ include "cmk.over" (list (dict "maxUnavailable" 0) .Values.rollout) }}{{- end -}}

{{/* Values over their defaults, key by key; null and "" leave the default. Call with (list defaults values). */}}
{{- define "cmk.over" -}}
{{- $result := index . 0 -}}
{{- range $key, $value := index . 1 | default dict -}}
{{- if or (kindIs "invalid" $value) (eq (toString $value) "") -}}
{{- else if has $key (list "pdb" "certificates") -}}
{{- $_ := set $result $key (include "cmk.over" (list (index $result $key) $value) | fromJson) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- $result | toJson -}}
{{- end -}}
{{- define "cmk.webhook" -}}{{ include "cmk.over" (list (include "cmk.webhook.defaults" . | fromYaml) .Values.webhook) }}{{- end -}}
{{- define "cmk.workloads" -}}{{ include "cmk.over" (list (include "cmk.workloads.defaults" . | fromYaml) .Values.workloads) }}{{- end -}}
