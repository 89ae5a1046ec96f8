{{/*
Memo: the output of a template, computed once in a rendering however often it is included. With a thousand hosts each computation takes
seconds. Helm has no variables that templates share, but all templates see the same .Values, so the memo is kept there under __memo. Call
with (list root name); the named template is called with root.
*/}}
{{- define "cmk.memo" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- if not (hasKey $root.Values "__memo") -}}
{{- $_ := set $root.Values "__memo" dict -}}
{{- end -}}
{{- if not (hasKey $root.Values.__memo $name) -}}
{{- $_ := set $root.Values.__memo $name (include $name $root) -}}
{{- end -}}
{{- index $root.Values.__memo $name -}}
{{- end -}}
