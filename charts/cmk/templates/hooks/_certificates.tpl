{{/*
What there is to do about the certificate: {"create": …, "patch": …}. Everything, unless the cluster that is upgraded shows that it is done
already: the keeper renews, and what it wrote last on the Secret says for whom and until when. Who renders without a cluster gets everything.
*/}}
{{- define "cmk.certs.work" -}}
{{- $webhook := include "cmk.webhook" . | fromJson -}}
{{- $name := include "cmk.webhook.name" . -}}
{{- $ours := eq $webhook.certificates.mode "hooks" -}}
{{- $create := $ours -}}
{{- $patch := ne $webhook.certificates.mode "certManager" -}}
{{- if .Release.IsUpgrade -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "cmk.webhook.secret" .) | default dict -}}
{{- $deployment := lookup "apps/v1" "Deployment" .Release.Namespace (include "cmk.webhook.deployment" .) | default dict -}}
{{- $configuration := lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" $name | default dict -}}
{{- $ca := index ($secret.data | default dict) "ca.crt" | default "" | b64dec -}}
{{- if and $create $deployment -}}
{{- $meta := $secret.metadata | default dict -}}
{{- $notes := $meta.annotations | default dict -}}
{{- $whole := true -}}
{{- range $key, $kind := dict "tls.crt" "CERTIFICATE" "tls.key" "PRIVATE KEY" "ca.crt" "CERTIFICATE" -}}
{{- if not (contains (printf "%s-----" $kind) (index ($secret.data | default dict) $key | default "" | b64dec)) -}}
{{- $whole = false -}}
{{- end -}}
{{- end -}}
{{- $theirs := false -}}
{{- range $meta.ownerReferences -}}
{{- if eq .uid $deployment.metadata.uid -}}
{{- $theirs = true -}}
{{- end -}}
{{- end -}}
{{- $now := dateInZone "2006-01-02T15:04:05Z" now "UTC" -}}
{{- $create = not (and $whole $theirs (eq (index $notes "cmk.intel.com/service" | default "") (printf "%s.%s.svc" $name .Release.Namespace)) (lt $now (index $notes "cmk.intel.com/not-after" | default ""))) -}}
{{- end -}}
{{- if and $patch (not $create) $ca $configuration -}}
{{- $patch = false -}}
{{- range $configuration.webhooks -}}
{{- if not (contains (trim $ca) (.clientConfig.caBundle | default "" | b64dec)) -}}
{{- $patch = true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "create" $create "patch" $patch | toJson -}}
{{- end -}}

{{/* The right of both who put the CA in place. */}}
{{- define "cmk.certs.configuration" -}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [{{ include "cmk.webhook.name" . }}]
  verbs: [get, patch]
{{- end -}}
