{{/* Name, cut so that every suffix of ours fits into 63 characters. */}}
{{- define "cmk.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cmk.node.name" -}}
{{- .Values.agent.daemonSetName | default (printf "%s-node" (include "cmk.fullname" .)) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- define "cmk.config.name" -}}{{ include "cmk.fullname" . }}-config{{- end -}}
{{- define "cmk.hosts.prefix" -}}{{ include "cmk.fullname" . }}-hosts{{- end -}}
{{- define "cmk.rollout.prefix" -}}{{ include "cmk.fullname" . }}-rollout{{- end -}}

{{/* Selector labels are immutable on workloads: these three and no others, for ever. */}}
{{- define "cmk.selectorLabels" -}}
app.kubernetes.io/name: cmk
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "cmk.labels" -}}
{{ include "cmk.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "cmk.image" -}}
{{- $image := .Values.image -}}
{{- $repository := ternary (printf "%s/%s" $image.registry $image.repository) $image.repository (not (empty $image.registry)) -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "cmk.webhook.name" -}}{{ include "cmk.fullname" . }}-webhook{{- end -}}
{{- define "cmk.webhook.deployment" -}}
{{- (include "cmk.webhook" . | fromJson).deploymentName | default (include "cmk.webhook.name" .) -}}
{{- end -}}
{{- define "cmk.webhook.secret" -}}
{{- (include "cmk.webhook" . | fromJson).certificates.secretName | default (printf "%s-cert" (include "cmk.webhook.name" .)) -}}
{{- end -}}

{{/* The pull secrets of a pod, of whichever kind of object. */}}
{{- define "cmk.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Egress of a NetworkPolicy that leads to the API server and nowhere else. */}}
{{- define "cmk.apiServerEgress" -}}
egress:
  - ports:
      {{- range .Values.networkPolicy.apiServerPorts | default (list 443 6443) }}
      - {port: {{ . }}, protocol: TCP}
      {{- end }}
{{- end -}}

{{/* What every container has that does not work on a node. */}}
{{- define "cmk.lockedDown" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where the webhook's objects are, for cmk certs. */}}
{{- define "cmk.certs.args" -}}
- --namespace={{ .Release.Namespace }}
- --secret={{ include "cmk.webhook.secret" . }}
- --service={{ include "cmk.webhook.name" . }}
- --configuration={{ include "cmk.webhook.name" . }}
- --owner={{ include "cmk.webhook.deployment" . }}
{{- end -}}
