{{/*
Values in the form of StarlingX's charts, with the rules of helm-toolkit's daemonset_overrides: conf.cmk applies to all nodes, an entry of
hosts to one node, an entry of labels to the nodes whose label has one of its values. The last label wins; labels do not apply to a node that
has an entry under hosts.
*/}}

{{/* Pools of one conf: JSON by name. Call with (dict "conf" conf "place" where it stands in the values). */}}
{{- define "cmk.starlingx.pools" -}}
{{- $pools := dict -}}
{{- range $key, $value := (.conf | default dict).cmk -}}
{{- $place := printf "%s.cmk.%s" $.place $key -}}
{{- if not (has $key (list "NUM_EXCLUSIVE_CORES" "NUM_SHARED_CORES")) -}}
{{- fail (printf "%s is not a valid setting: conf.cmk has NUM_EXCLUSIVE_CORES and NUM_SHARED_CORES; see values.yaml for the others" $place) -}}
{{- end -}}
{{- if not (regexMatch "^(-1|[0-9]+)$" (toString $value)) -}}
{{- fail (printf "%s=%v is not a number of cores: write 0 or more, or -1 for all that remain" $place $value) -}}
{{- end -}}
{{- $_ := set $pools (ternary "exclusive" "shared" (eq $key "NUM_EXCLUSIVE_CORES")) (dict "cores" (toString $value | int)) -}}
{{- end -}}
{{- $pools | toJson -}}
{{- end -}}

{{/* StarlingX's conf in the shape of the chart's scopes: JSON of {pools, groups, hosts}. */}}
{{- define "cmk.starlingx" -}}
{{- $conf := .Values.conf | default dict -}}
{{- $groups := dict -}}
{{- $hosts := dict -}}
{{- range $target, $overrides := $conf.overrides -}}
{{- if eq $target "cpu-manager-k8s_cmk" -}}
{{- $place := printf "conf.overrides.%s" $target -}}
{{- range $kind := list "hosts" "labels" -}}
{{- if and (index $overrides $kind) (not (kindIs "slice" (index $overrides $kind))) -}}
{{- fail (printf "%s.%s is a map, the form of helm-toolkit's daemonset_overrides_root: write a list of entries, each with a conf" $place $kind) -}}
{{- end -}}
{{- end -}}
{{- range $index, $entry := $overrides.hosts -}}
{{- $here := printf "%s.hosts[%v]" $place $index -}}
{{- if hasKey $hosts (toString $entry.name) -}}
{{- fail (printf "%s: host %v has two entries: leave one out" $here $entry.name) -}}
{{- end -}}
{{- $pools := include "cmk.starlingx.pools" (dict "conf" $entry.conf "place" (printf "%s.conf" $here)) | fromJson -}}
{{- $_ := set $hosts (toString $entry.name) (dict "pools" $pools "alone" true "scope" $here) -}}
{{- end -}}
{{- range $index, $entry := $overrides.labels -}}
{{- $here := printf "%s.labels[%v]" $place $index -}}
{{- $label := $entry.label | default dict -}}
{{- if or (not $label.key) (not (kindIs "slice" $label.values)) -}}
{{- fail (printf "%s.label=%v is incomplete: write a key and a list of values" $here $entry.label) -}}
{{- end -}}
{{- $pools := include "cmk.starlingx.pools" (dict "conf" $entry.conf "place" (printf "%s.conf" $here)) | fromJson -}}
{{- /* Later labels weigh more than earlier ones, and all weigh less than any of the chart's own groups. */ -}}
{{- $match := dict (toString $label.key) $label.values -}}
{{- $_ := set $groups $here (dict "pools" $pools "matchLabels" $match "weight" (add -1000000000 $index)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $pools := include "cmk.starlingx.pools" (dict "conf" $conf "place" "conf") | fromJson -}}
{{- dict "pools" $pools "groups" $groups "hosts" $hosts | toJson -}}
{{- end -}}

{{/* Values of helm-toolkit that this chart ignores, as a comma list. */}}
{{- define "cmk.starlingx.ignored" -}}
{{- $ignored := list -}}
{{- range $key := list "bootstrap" "dependencies" "endpoints" "images" "labels" "manifests" "network" "pod" "release_group" "secrets" -}}
{{- if hasKey $.Values $key }}{{ $ignored = append $ignored $key }}{{ end -}}
{{- end -}}
{{- $conf := .Values.conf | default dict -}}
{{- range $key := keys $conf | sortAlpha -}}
{{- if not (has $key (list "cmk" "overrides")) }}{{ $ignored = append $ignored (printf "conf.%s" $key) }}{{ end -}}
{{- end -}}
{{- range $key := keys ($conf.overrides | default dict) | sortAlpha -}}
{{- if ne $key "cpu-manager-k8s_cmk" }}{{ $ignored = append $ignored (printf "conf.overrides.%s" $key) }}{{ end -}}
{{- end -}}
{{- join ", " $ignored -}}
{{- end -}}
