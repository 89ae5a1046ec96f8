{{/*
Labels of objects. Call both with (dict "root" $ "component" name). Selectors of workloads are immutable: the selector labels stay these
three for ever.
*/}}
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
