{{/*
Scopes of node configuration: the default, groups and hosts. They are merged here and in no other place, so that `helm template` shows what
each node gets.
*/}}

{{/*
Merges one scope over another, key by key. A pool's cores and cpus replace each other, and a map of cores by socket is one value. Call with
(list base scope name); returns JSON of {pools, taint, paused, reserved, isolation, origins}, where origins maps each value to the name of
the scope that set it.
*/}}
{{- define "cmk.merge" -}}
{{- $merged := deepCopy (index . 0) -}}
{{- $scope := index . 1 | default dict -}}
{{- $name := index . 2 -}}
{{- range $key := list "taint" "paused" -}}
{{- if and (hasKey $scope $key) (not (kindIs "invalid" (index $scope $key))) -}}
{{- $_ := set $merged $key (index $scope $key) -}}
{{- $_ := set $merged.origins $key $name -}}
{{- end -}}
{{- end -}}
{{- if hasKey ($scope.reserved | default dict) "cpus" -}}
{{- $_ := set $merged "reserved" (toString $scope.reserved.cpus) -}}
{{- $_ := set $merged.origins "reserved.cpus" $name -}}
{{- end -}}
{{- range $layer, $value := $scope.isolation | default dict -}}
{{- if not (kindIs "invalid" $value) -}}
{{- if and (has $layer (list "host" "irqs" "partition")) (kindIs "bool" $value) -}}
{{- /* YAML reads a bare off as false, and on as true. */ -}}
{{- $value = ternary "on" "off" $value -}}
{{- end -}}
{{- $_ := set $merged.isolation $layer $value -}}
{{- $_ := set $merged.origins (printf "isolation.%s" $layer) $name -}}
{{- end -}}
{{- end -}}
{{- range $pool, $changes := $scope.pools -}}
{{- $exclusive := has $pool (list "exclusive" "exclusive-non-isolcpus") -}}
{{- $settings := index $merged.pools $pool | default (dict "exclusive" $exclusive) -}}
{{- range $key, $value := $changes -}}
{{- range $other := ternary (list "cores" "cpus") list (has $key (list "cores" "cpus")) -}}
{{- $_ := unset $settings $other -}}
{{- $_ := unset $merged.origins (printf "%s.%s" $pool $other) -}}
{{- end -}}
{{- $_ := set $settings $key $value -}}
{{- $_ := set $merged.origins (printf "%s.%s" $pool $key) $name -}}
{{- end -}}
{{- if not (or (hasKey $settings "cores") (hasKey $settings "cpus")) -}}
{{- fail (printf "%s: pool %s has neither cores nor cpus: set one of them, or leave the pool out" $name $pool) -}}
{{- end -}}
{{- $_ := set $merged.pools $pool $settings -}}
{{- end -}}
{{- $merged | toJson -}}
{{- end -}}

{{/* All scopes in one shape, those of StarlingX's `conf` included: JSON of {default, groups, hosts}. */}}
{{- define "cmk.scopes" -}}{{ include "cmk.memo" (list . "cmk.scopes.computed") }}{{- end -}}
{{- define "cmk.scopes.computed" -}}
{{- $starlingx := include "cmk.starlingx" . | fromJson -}}
{{- $values := pick .Values "taint" "paused" -}}
{{- range $key := list "pools" "reserved" "isolation" -}}
{{- $_ := set $values $key (index $.Values $key | default dict) -}}
{{- end -}}
{{- $default := include "cmk.merge" (list (include "cmk.defaults" . | fromYaml) $values "values") | fromJson -}}
{{- $default = include "cmk.merge" (list $default (dict "pools" $starlingx.pools) "conf.cmk") | fromJson -}}
{{- /* In every section, so that a node gets the limit together with its pools, neither before nor after them. */ -}}
{{- $_ := set $default "maxUnavailable" ((include "cmk.rollout" . | fromJson).maxUnavailable | int64) -}}
{{- $groups := deepCopy $starlingx.groups -}}
{{- range $name, $group := .Values.groups -}}
{{- $shape := dict "weight" 0 "matchLabels" dict "scope" (printf "groups.%s" $name) -}}
{{- $_ := set $groups $name (mergeOverwrite $shape (deepCopy ($group | default dict))) -}}
{{- end -}}
{{- $hosts := deepCopy $starlingx.hosts -}}
{{- range $name, $host := .Values.hosts -}}
{{- $host = mergeOverwrite (dict "scope" (printf "hosts.%s" $name)) (deepCopy ($host | default dict)) -}}
{{- with index $hosts $name -}}
{{- $_ := set $host "pools" (merge (deepCopy ($host.pools | default dict)) .pools) -}}
{{- end -}}
{{- $_ := set $hosts $name $host -}}
{{- end -}}
{{- dict "default" $default "groups" $groups "hosts" $hosts | toJson -}}
{{- end -}}
