{{/*
Node configuration: scopes merged here and nowhere else, so that helm template shows what each node gets.
*/}}

{{/*
What is made once in a rendering however often it is asked for: with a thousand hosts each time takes seconds. The values are the one
thing that all templates have in common. Call with (list root name).
*/}}
{{- define "cmk.once" -}}
{{- $root := index . 0 -}}
{{- if not (hasKey $root.Values "__made") -}}
{{- $_ := set $root.Values "__made" dict -}}
{{- end -}}
{{- if not (hasKey $root.Values.__made (index . 1)) -}}
{{- $_ := set $root.Values.__made (index . 1) (include (index . 1) $root) -}}
{{- end -}}
{{- index $root.Values.__made (index . 1) -}}
{{- end -}}

{{/*
One scope over another, key by key; cores and cpus replace each other, and a map of cores by socket is one value. Call with
(list base scope name); returns JSON of {pools, taint, paused, reserved, isolation, origins}.
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
{{- /* YAML reads a bare off as false, and on as true */ -}}
{{- $_ := set $merged.isolation $layer (ternary (ternary "on" "off" (eq (toString $value) "true")) $value (and (has $layer (list "host" "irqs" "partition")) (kindIs "bool" $value))) -}}
{{- $_ := set $merged.origins (printf "isolation.%s" $layer) $name -}}
{{- end -}}
{{- end -}}
{{- range $pool, $wanted := $scope.pools -}}
{{- $settings := index $merged.pools $pool | default (dict "exclusive" (has $pool (list "exclusive" "exclusive-non-isolcpus"))) -}}
{{- range $key, $value := $wanted -}}
{{- range $other := ternary (list "cores" "cpus") list (has $key (list "cores" "cpus")) -}}
{{- $_ := unset $settings $other -}}
{{- $_ := unset $merged.origins (printf "%s.%s" $pool $other) -}}
{{- end -}}
{{- $_ := set $settings $key $value -}}
{{- $_ := set $merged.origins (printf "%s.%s" $pool $key) $name -}}
{{- end -}}
{{- if not (or (hasKey $settings "cores") (hasKey $settings "cpus")) -}}
{{- fail (printf "pool %s of %s has neither cores nor cpus: say how many cores it gets, or leave it out" $pool $name) -}}
{{- end -}}
{{- $_ := set $merged.pools $pool $settings -}}
{{- end -}}
{{- $merged | toJson -}}
{{- end -}}

{{/* Every scope in one shape, whatever it was written in: JSON of {default, groups, hosts}. */}}
{{- define "cmk.scopes" -}}{{ include "cmk.once" (list . "cmk.scopes.made") }}{{- end -}}
{{- define "cmk.scopes.made" -}}
{{- $foreign := include "cmk.starlingx" . | fromJson -}}
{{- $own := dict "pools" (.Values.pools | default dict) "taint" .Values.taint "paused" .Values.paused "reserved" (.Values.reserved | default dict) "isolation" (.Values.isolation | default dict) -}}
{{- $default := include "cmk.merge" (list (include "cmk.defaults" . | fromYaml) $own "values") | fromJson -}}
{{- $default = include "cmk.merge" (list $default (dict "pools" $foreign.pools) "conf.cmk") | fromJson -}}
{{- /* In every section, for a node is to know of it with its pools and not before or after. */ -}}
{{- $_ := set $default "maxUnavailable" ((include "cmk.rollout" . | fromJson).maxUnavailable | int64) -}}
{{- $groups := deepCopy $foreign.groups -}}
{{- range $name, $group := .Values.groups -}}
{{- $_ := set $groups $name (mergeOverwrite (dict "weight" 0 "matchLabels" dict "scope" (printf "groups.%s" $name)) (deepCopy ($group | default dict))) -}}
{{- end -}}
{{- $hosts := deepCopy $foreign.hosts -}}
{{- range $name, $host := .Values.hosts -}}
{{- $host = mergeOverwrite (dict "scope" (printf "hosts.%s" $name)) (deepCopy ($host | default dict)) -}}
{{- with index $hosts $name -}}
{{- $_ := set $host "pools" (merge (deepCopy ($host.pools | default dict)) .pools) -}}
{{- end -}}
{{- $_ := set $hosts $name $host -}}
{{- end -}}
{{- dict "default" $default "groups" $groups "hosts" $hosts | toJson -}}
{{- end -}}

{{/* A scope as the agent reads it. The hash is computed here alone; agents echo it. Call with the merged scope. */}}
{{- define "cmk.section" -}}
{{- $hash := omit . "origins" "maxUnavailable" | toJson | sha256sum | trunc 16 -}}
{{- set (deepCopy .) "hash" $hash | toJson -}}
{{- end -}}

{{/* config.json: what every agent reads. */}}
{{- define "cmk.config" -}}{{ include "cmk.once" (list . "cmk.config.made") }}{{- end -}}
{{- define "cmk.config.made" -}}
{{- $scopes := include "cmk.scopes" . | fromJson -}}
{{- $groups := dict -}}
{{- range $name, $group := $scopes.groups -}}
{{- $section := include "cmk.section" (include "cmk.merge" (list $scopes.default $group ($group.scope | default $name)) | fromJson) | fromJson -}}
{{- $_ := set $groups $name (dict "weight" ($group.weight | int64) "matchLabels" $group.matchLabels "section" $section) -}}
{{- end -}}
{{- dict "selection" (include "cmk.selection" . | fromJson) "default" (include "cmk.section" $scopes.default | fromJson) "groups" $groups | toPrettyJson -}}
{{- end -}}

{{/* One host: its section under each group it can be in. Call with (dict "scopes" all scopes "bases" groups over the default "host" this one). */}}
{{- define "cmk.host" -}}
{{- $default := .scopes.default -}}
{{- $host := .host -}}
{{- $sections := dict -}}
{{- if not $host.group -}}
{{- $_ := set $sections "" (include "cmk.section" (include "cmk.merge" (list $default $host $host.scope) | fromJson) | fromJson) -}}
{{- end -}}
{{- range $name, $group := .scopes.groups -}}
{{- if and (not $host.alone) (or (not $host.group) (eq $host.group $name)) -}}
{{- $_ := set $sections $name (include "cmk.section" (include "cmk.merge" (list (index $.bases $name) $host $host.scope) | fromJson) | fromJson) -}}
{{- end -}}
{{- end -}}
{{- dict "group" ($host.group | default "") "alone" ($host.alone | default false) "scope" $host.scope "sections" $sections | toJson -}}
{{- end -}}

{{/* Every host as the agent reads it: JSON by name. */}}
{{- define "cmk.hosts" -}}{{ include "cmk.once" (list . "cmk.hosts.made") }}{{- end -}}
{{- define "cmk.hosts.made" -}}
{{- $scopes := include "cmk.scopes" . | fromJson -}}
{{- $bases := dict -}}
{{- range $name, $group := $scopes.groups -}}
{{- $_ := set $bases $name (include "cmk.merge" (list $scopes.default $group ($group.scope | default $name)) | fromJson) -}}
{{- end -}}
{{- $hosts := dict -}}
{{- range $name, $host := $scopes.hosts -}}
{{- $_ := set $hosts $name (include "cmk.host" (dict "scopes" $scopes "bases" $bases "host" $host) | fromJson) -}}
{{- end -}}
{{- $hosts | toJson -}}
{{- end -}}

{{/* Hosts by shard (adler32 of the name, modulo 16; the agent computes the same): JSON of {NN: {host: ...}}. */}}
{{- define "cmk.shards" -}}{{ include "cmk.once" (list . "cmk.shards.made") }}{{- end -}}
{{- define "cmk.shards.made" -}}
{{- $shards := dict -}}
{{- range $name, $host := include "cmk.hosts" . | fromJson -}}
{{- $shard := printf "%02d" (mod (adler32sum $name | int64) 16) -}}
{{- $hosts := index $shards $shard | default dict -}}
{{- $_ := set $hosts $name $host -}}
{{- $_ := set $shards $shard $hosts -}}
{{- end -}}
{{- $shards | toJson -}}
{{- end -}}

{{/* The shards that there are: JSON of {names}. */}}
{{- define "cmk.shardNames" -}}
{{- $names := list -}}
{{- range $name, $_ := (include "cmk.scopes" . | fromJson).hosts -}}
{{- $names = append $names (printf "%02d" (mod (adler32sum $name | int64) 16)) -}}
{{- end -}}
{{- dict "names" (uniq $names | sortAlpha) | toJson -}}
{{- end -}}

{{/* A volume with the whole configuration, for a hook. Call with (dict "root" $ "config" name "hosts" prefix). */}}
{{- define "cmk.configVolume" -}}
- name: config
  projected:
    sources:
      - configMap:
          name: {{ .config }}
          items: [{key: config.json, path: config.json}]
      {{- range $shard := (include "cmk.shardNames" .root | fromJson).names }}
      - configMap:
          name: {{ $.hosts }}-{{ $shard }}
          items: [{key: hosts.json, path: hosts-{{ $shard }}.json}]
      {{- end }}
{{- end -}}

{{/* Every section of every scope, by where it comes from: JSON. */}}
{{- define "cmk.sections" -}}{{ include "cmk.once" (list . "cmk.sections.made") }}{{- end -}}
{{- define "cmk.sections.made" -}}
{{- $scopes := include "cmk.scopes" . | fromJson -}}
{{- $sections := dict "the default" $scopes.default -}}
{{- range $name, $group := (include "cmk.config" . | fromJson).groups -}}
{{- $_ := set $sections (ternary $name (printf "groups.%s" $name) (hasPrefix "conf." $name)) $group.section -}}
{{- end -}}
{{- range $name, $host := include "cmk.hosts" . | fromJson -}}
{{- range $group, $section := $host.sections -}}
{{- $_ := set $sections (ternary (printf "%s in group %s" $host.scope $group) $host.scope (ne $group "")) $section -}}
{{- end -}}
{{- end -}}
{{- $sections | toJson -}}
{{- end -}}

{{/* Which isolation layers any node has: JSON of {LAYER: true} for those that need something of the host. */}}
{{- define "cmk.layers" -}}
{{- $found := dict -}}
{{- range $place, $section := include "cmk.sections" . | fromJson -}}
{{- if $section.isolation.pods }}{{ $_ := set $found "pods" true }}{{ end -}}
{{- range $layer := list "host" "irqs" "partition" -}}
{{- if ne (index $section.isolation $layer) "off" }}{{ $_ := set $found (printf "%s-%s" $layer (index $section.isolation $layer)) true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* Names of the exclusive pools that any node has: JSON of {names}. */}}
{{- define "cmk.exclusivePools" -}}
{{- $names := list -}}
{{- range $place, $section := include "cmk.sections" . | fromJson -}}
{{- range $name, $pool := $section.pools -}}
{{- if and $pool.exclusive (ne (toString $pool.cores) "0") }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{- end -}}
{{- dict "names" (uniq $names | sortAlpha) | toJson -}}
{{- end -}}
