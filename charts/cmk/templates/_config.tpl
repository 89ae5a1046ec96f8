{{/*
Configuration of nodes as the agent reads it: merged scopes, called sections, in config.json (the default and groups) and, by shard, in
hosts.json.
*/}}

{{/* A section: a merged scope with its hash, which is computed here only; agents repeat it in their reports. Call with the merged scope. */}}
{{- define "cmk.section" -}}
{{- $hash := omit . "origins" "maxUnavailable" | toJson | sha256sum | trunc 16 -}}
{{- set (deepCopy .) "hash" $hash | toJson -}}
{{- end -}}

{{/* config.json: what every agent reads. */}}
{{- define "cmk.config" -}}{{ include "cmk.memo" (list . "cmk.config.computed") }}{{- end -}}
{{- define "cmk.config.computed" -}}
{{- $scopes := include "cmk.scopes" . | fromJson -}}
{{- $groups := dict -}}
{{- range $name, $group := $scopes.groups -}}
{{- $merged := include "cmk.merge" (list $scopes.default $group ($group.scope | default $name)) | fromJson -}}
{{- $section := include "cmk.section" $merged | fromJson -}}
{{- $_ := set $groups $name (dict "weight" ($group.weight | int64) "matchLabels" $group.matchLabels "section" $section) -}}
{{- end -}}
{{- $default := include "cmk.section" $scopes.default | fromJson -}}
{{- dict "selection" (include "cmk.selection" . | fromJson) "default" $default "groups" $groups | toPrettyJson -}}
{{- end -}}

{{/*
One host: its section under each group that it can be in. Call with (dict "scopes" all scopes "bases" groups merged over the default "host"
the host's scope).
*/}}
{{- define "cmk.host" -}}
{{- $host := .host -}}
{{- $bases := dict -}}
{{- if not $host.group -}}
{{- $_ := set $bases "" .scopes.default -}}
{{- end -}}
{{- range $name, $_ := .scopes.groups -}}
{{- if and (not $host.alone) (or (not $host.group) (eq $host.group $name)) -}}
{{- $_ := set $bases $name (index $.bases $name) -}}
{{- end -}}
{{- end -}}
{{- $sections := dict -}}
{{- range $group, $base := $bases -}}
{{- $merged := include "cmk.merge" (list $base $host $host.scope) | fromJson -}}
{{- $_ := set $sections $group (include "cmk.section" $merged | fromJson) -}}
{{- end -}}
{{- $group := $host.group | default "" -}}
{{- dict "group" $group "alone" ($host.alone | default false) "scope" $host.scope "sections" $sections | toJson -}}
{{- end -}}

{{/* All hosts as the agent reads them: JSON by name. */}}
{{- define "cmk.hosts" -}}{{ include "cmk.memo" (list . "cmk.hosts.computed") }}{{- end -}}
{{- define "cmk.hosts.computed" -}}
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

{{/* Shard of a host: adler32 of its name, modulo 16, as two digits; the agent computes the same. Call with the name. */}}
{{- define "cmk.shard" -}}{{ printf "%02d" (mod (adler32sum . | int64) 16) }}{{- end -}}

{{/* Hosts by shard: JSON of {SHARD: {HOST: ...}}. */}}
{{- define "cmk.shards" -}}{{ include "cmk.memo" (list . "cmk.shards.computed") }}{{- end -}}
{{- define "cmk.shards.computed" -}}
{{- $shards := dict -}}
{{- range $name, $host := include "cmk.hosts" . | fromJson -}}
{{- $shard := include "cmk.shard" $name -}}
{{- $hosts := index $shards $shard | default dict -}}
{{- $_ := set $hosts $name $host -}}
{{- $_ := set $shards $shard $hosts -}}
{{- end -}}
{{- $shards | toJson -}}
{{- end -}}

{{/* Shards that have a host: JSON of {names}. */}}
{{- define "cmk.shardNames" -}}
{{- $names := list -}}
{{- range $name, $_ := (include "cmk.scopes" . | fromJson).hosts -}}
{{- $names = append $names (include "cmk.shard" $name) -}}
{{- end -}}
{{- dict "names" (uniq $names | sortAlpha) | toJson -}}
{{- end -}}

{{/* All sections by the scope that they come from: JSON. */}}
{{- define "cmk.sections" -}}{{ include "cmk.memo" (list . "cmk.sections.computed") }}{{- end -}}
{{- define "cmk.sections.computed" -}}
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

{{/*
Isolation layers that some node has and that need something of the host: JSON of {LAYER: true}, where LAYER is pods, host-affinity,
host-slices, irqs-on or partition-auto.
*/}}
{{- define "cmk.layers" -}}
{{- $layers := dict -}}
{{- range $place, $section := include "cmk.sections" . | fromJson -}}
{{- if $section.isolation.pods }}{{ $_ := set $layers "pods" true }}{{ end -}}
{{- range $layer := list "host" "irqs" "partition" -}}
{{- $value := index $section.isolation $layer -}}
{{- if ne $value "off" }}{{ $_ := set $layers (printf "%s-%s" $layer $value) true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $layers | toJson -}}
{{- end -}}

{{/* Names of the exclusive pools that some node has: JSON of {names}. */}}
{{- define "cmk.exclusivePools" -}}
{{- $names := list -}}
{{- range $place, $section := include "cmk.sections" . | fromJson -}}
{{- range $name, $pool := $section.pools -}}
{{- if and $pool.exclusive (ne (toString $pool.cores) "0") }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{- end -}}
{{- dict "names" (uniq $names | sortAlpha) | toJson -}}
{{- end -}}
