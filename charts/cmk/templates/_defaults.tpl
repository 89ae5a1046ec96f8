{{/*
Defaults of the node configuration. They are here and not in values.yaml for two reasons: `--reuse-values` from an older release never meets a
nil, and a value that the user set can be told from a default.
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

{{/* Selection of CMK nodes: JSON of {all, names, selector}. Without selector, names and all it is StarlingX's label. */}}
{{- define "cmk.selection" -}}
{{- $nodes := .Values.nodes | default dict -}}
{{- $selector := $nodes.selector | default dict -}}
{{- $names := $nodes.names | default list -}}
{{- if and (empty $selector) (empty $names) (not $nodes.all) -}}
{{- $selector = dict "cmk-node" "enabled" -}}
{{- end -}}
{{- dict "all" ($nodes.all | default false) "names" $names "selector" $selector | toJson -}}
{{- end -}}

{{/* Defaults of values that were added after the first release; here for the same reasons. */}}
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
# The webhook must be able to run in clusters whose nodes all have cmk's taint or are control planes.
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
limits: {connections: 256, waiting: 200, tasks: 1000, requestsPerSecond: 100}
{{- end -}}

{{- define "cmk.hooks.defaults" -}}
backoffLimit: 3
activeDeadlineSeconds: 180
priorityClassName: ""
nodeSelector: {}
# A hook must be able to run in clusters whose nodes all have cmk's taint or are control planes. It does not tolerate nodes whose kubelet has
# stopped: their pods end elsewhere, so the scheduler prefers such a node, and the hook would wait there until its deadline.
tolerations:
  - {key: cmk, operator: Exists}
  - {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
  - {key: node-role.kubernetes.io/master, operator: Exists, effect: NoSchedule}
{{- end -}}

{{- define "cmk.hooks" -}}{{ include "cmk.over" (list (include "cmk.hooks.defaults" . | fromYaml) .Values.hooks) }}{{- end -}}
{{- define "cmk.plan" -}}{{ include "cmk.over" (list (dict "enabled" true) .Values.plan) }}{{- end -}}
{{- define "cmk.verify" -}}{{ include "cmk.over" (list (dict "enabled" true "timeoutSeconds" 240 "maxFailures" 0) .Values.verify) }}{{- end -}}
{{- define "cmk.rollout" -}}{{ include "cmk.over" (list (dict "maxUnavailable" 0) .Values.rollout) }}{{- end -}}

{{/* Values merged over their defaults, key by key; null and "" leave the default. Call with (list defaults values); returns JSON. */}}
{{- define "cmk.over" -}}
{{- $result := index . 0 -}}
{{- range $key, $value := index . 1 | default dict -}}
{{- if or (kindIs "invalid" $value) (eq (toString $value) "") -}}
{{- else if has $key (list "pdb" "certificates" "limits") -}}
{{- $_ := set $result $key (include "cmk.over" (list (index $result $key) $value) | fromJson) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- $result | toJson -}}
{{- end -}}
{{- define "cmk.webhook" -}}{{ include "cmk.over" (list (include "cmk.webhook.defaults" . | fromYaml) .Values.webhook) }}{{- end -}}
{{- define "cmk.workloads" -}}{{ include "cmk.over" (list (include "cmk.workloads.defaults" . | fromYaml) .Values.workloads) }}{{- end -}}
