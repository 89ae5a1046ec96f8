{{/*
One scope merged over another: pool by pool, key by key. Call with (list base scope); returns JSON of {pools, taint, paused}.
*/}}
{{- define "cmk.merge" -}}
{{- $base := index . 0 -}}
{{- $scope := index . 1 | default dict -}}
{{- $merged := deepCopy $base -}}
{{- range $key := list "taint" "paused" -}}
{{- if and (hasKey $scope $key) (not (kindIs "invalid" (index $scope $key))) -}}
{{- $_ := set $merged $key (index $scope $key) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $merged "pools" (mergeOverwrite (deepCopy $base.pools) (deepCopy ($scope.pools | default dict))) -}}
{{- $merged | toJson -}}
{{- end -}}

{{/* The default scope: built-in pools under the values at top level. */}}
{{- define "cmk.default" -}}
{{- $builtin := dict "pools" (include "cmk.defaults.pools" . | fromYaml) "taint" true "paused" false -}}
{{- include "cmk.merge" (list $builtin (dict "pools" .Values.pools "taint" .Values.taint "paused" .Values.paused)) -}}
{{- end -}}

{{/* A scope as the agent reads it. The hash is computed here alone; agents echo it. Call with the merged scope. */}}
{{- define "cmk.section" -}}
{{- $hash := . | toJson | sha256sum | trunc 16 -}}
{{- set (deepCopy .) "hash" $hash | toJson -}}
{{- end -}}

{{/* config.json: what every agent reads. */}}
{{- define "cmk.config" -}}
{{- $default := include "cmk.default" . | fromJson -}}
{{- $groups := dict -}}
{{- range $name, $group := .Values.groups -}}
{{- $section := include "cmk.section" (include "cmk.merge" (list $default $group) | fromJson) | fromJson -}}
{{- $weight := $group.weight | default 0 | int -}}
{{- $_ := set $groups $name (dict "weight" $weight "matchLabels" ($group.matchLabels | default dict) "section" $section) -}}
{{- end -}}
{{- dict "selection" (include "cmk.selection" . | fromJson) "default" (include "cmk.section" $default | fromJson) "groups" $groups | toPrettyJson -}}
{{- end -}}

{{/* One host: its section under each group it can be in. Call with (dict "root" $ "host" its values). */}}
{{- define "cmk.host" -}}
{{- $root := .root -}}
{{- $host := .host | default dict -}}
{{- $default := include "cmk.default" $root | fromJson -}}
{{- $sections := dict -}}
{{- if not $host.group -}}
{{- $_ := set $sections "" (include "cmk.section" (include "cmk.merge" (list $default $host) | fromJson) | fromJson) -}}
{{- end -}}
{{- range $name, $group := $root.Values.groups -}}
{{- if or (not $host.group) (eq $host.group $name) -}}
{{- $base := include "cmk.merge" (list $default $group) | fromJson -}}
{{- $_ := set $sections $name (include "cmk.section" (include "cmk.merge" (list $base $host) | fromJson) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- dict "group" ($host.group | default "") "sections" $sections | toJson -}}
{{- end -}}
