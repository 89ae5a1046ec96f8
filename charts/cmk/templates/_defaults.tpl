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
