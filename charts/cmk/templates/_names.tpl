{{/* Names of objects. The release's name is cut so that every suffix of the chart fits into 63 characters. */}}
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

{{- define "cmk.agent.name" -}}
{{- .Values.agent.daemonSetName | default (printf "%s-node" (include "cmk.fullname" .)) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- define "cmk.config.name" -}}{{ include "cmk.fullname" . }}-config{{- end -}}
{{- define "cmk.hosts.prefix" -}}{{ include "cmk.fullname" . }}-hosts{{- end -}}
{{- define "cmk.rollout.prefix" -}}{{ include "cmk.fullname" . }}-rollout{{- end -}}

{{- define "cmk.webhook.name" -}}{{ include "cmk.fullname" . }}-webhook{{- end -}}
{{- define "cmk.webhook.deployment" -}}
{{- (include "cmk.webhook" . | fromJson).deploymentName | default (include "cmk.webhook.name" .) -}}
{{- end -}}
{{- define "cmk.webhook.secret" -}}
{{- (include "cmk.webhook" . | fromJson).certificates.secretName | default (printf "%s-cert" (include "cmk.webhook.name" .)) -}}
{{- end -}}

{{/* The account that the hooks plan and verify share. */}}
{{- define "cmk.hook.account" -}}{{ include "cmk.fullname" . }}-hooks{{- end -}}
