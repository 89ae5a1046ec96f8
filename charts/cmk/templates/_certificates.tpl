{{/* Arguments of cmk certs that name the webhook's objects. */}}
{{- define "cmk.certs.args" -}}
- --namespace={{ .Release.Namespace }}
- --secret={{ include "cmk.webhook.secret" . }}
- --service={{ include "cmk.webhook.name" . }}
- --configuration={{ include "cmk.webhook.name" . }}
- --owner={{ include "cmk.webhook.deployment" . }}
{{- end -}}

{{/*
Which certificate hooks have work to do: JSON of {"create": bool, "patch": bool}. All that the mode allows, unless the cluster shows at an
upgrade that the work is done: the keeper renews the certificate and writes on the Secret for which service it is and until when. Rendered
without a cluster, both are needed.
*/}}
{{- define "cmk.certs.work" -}}
{{- $webhook := include "cmk.webhook" . | fromJson -}}
{{- $name := include "cmk.webhook.name" . -}}
{{- $create := eq $webhook.certificates.mode "hooks" -}}
{{- $patch := ne $webhook.certificates.mode "certManager" -}}
{{- if .Release.IsUpgrade -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "cmk.webhook.secret" .) | default dict -}}
{{- $deployment := lookup "apps/v1" "Deployment" .Release.Namespace (include "cmk.webhook.deployment" .) | default dict -}}
{{- $configuration := lookup "admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" "" $name | default dict -}}
{{- $ca := index ($secret.data | default dict) "ca.crt" | default "" | b64dec -}}
{{- if and $create $deployment -}}
{{- $meta := $secret.metadata | default dict -}}
{{- $annotations := $meta.annotations | default dict -}}
{{- $complete := true -}}
{{- range $key, $kind := dict "tls.crt" "CERTIFICATE" "tls.key" "PRIVATE KEY" "ca.crt" "CERTIFICATE" -}}
{{- if not (contains (printf "%s-----" $kind) (index ($secret.data | default dict) $key | default "" | b64dec)) -}}
{{- $complete = false -}}
{{- end -}}
{{- end -}}
{{- $owned := false -}}
{{- range $meta.ownerReferences -}}
{{- if eq .uid $deployment.metadata.uid -}}
{{- $owned = true -}}
{{- end -}}
{{- end -}}
{{- $now := dateInZone "2006-01-02T15:04:05Z" now "UTC" -}}
{{- $service := printf "%s.%s.svc" $name .Release.Namespace -}}
{{- $matches := eq (index $annotations "cmk.intel.com/service" | default "") $service -}}
{{- $valid := lt $now (index $annotations "cmk.intel.com/not-after" | default "") -}}
{{- $create = not (and $complete $owned $matches $valid) -}}
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

{{/* Rules that let the hook certs-create write the CA into the webhook configuration. */}}
{{- define "cmk.certs.configurationRules" -}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [{{ include "cmk.webhook.name" . }}]
  verbs: [get, patch]
{{- end -}}
