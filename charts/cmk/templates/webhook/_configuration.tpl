{{/*
The MutatingWebhookConfiguration, for Helm and for the keeper, which restores it. The caBundle is never part of it: hooks and keeper write it,
and neither Helm 3 nor Helm 4 removes a field that it did not set. For that, the object must have one webhook whose name never changes.
*/}}
{{- define "cmk.webhook.configuration" -}}
{{- $webhook := include "cmk.webhook" . | fromJson -}}
{{- $selector := $webhook.namespaceSelector -}}
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: {{ include "cmk.webhook.name" . }}
  labels:
    {{- include "cmk.labels" (dict "root" . "component" "webhook") | nindent 4 }}
  {{- if eq $webhook.certificates.mode "certManager" }}
  annotations:
    cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/{{ include "cmk.webhook.name" . }}
  {{- end }}
webhooks:
  - name: pods.cmk.intel.com
    admissionReviewVersions: [v1]
    clientConfig:
      service: {name: {{ include "cmk.webhook.name" . }}, namespace: {{ .Release.Namespace }}, path: /mutate, port: 443}
    failurePolicy: {{ $webhook.failurePolicy }}
    matchPolicy: Equivalent
    # Other webhooks may add containers after this one.
    reinvocationPolicy: IfNeeded
    sideEffects: None
    timeoutSeconds: {{ $webhook.timeoutSeconds }}
    rules:
      - {apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE], scope: Namespaced}
    namespaceSelector:
      {{- with $selector.matchLabels }}
      matchLabels:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      matchExpressions:
        # cmk's own pods, and the pods that a cluster needs to recover, must start without the webhook.
        - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ uniq (list "kube-system" .Release.Namespace) | toJson }}}
        {{- with $selector.matchExpressions }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    objectSelector: {}
    # No other pod is sent to the webhook, so none waits for it and none fails while it is away.
    matchConditions:
      - name: asks-for-cores
        expression: >-
          {{- include "cmk.webhook.asks" . | nindent 10 }}
      - name: is-no-mirror-pod
        expression: "!(has(object.metadata.annotations) && 'kubernetes.io/config.mirror' in object.metadata.annotations)"
{{- end -}}

{{/*
CEL expression: a container or init container has requests or limits of cores, by today's names or by those of the first versions of CMK and
kcm, or the pod carries the annotation.
*/}}
{{- define "cmk.webhook.asks" -}}
{{- $opaque := "pod.alpha.kubernetes.io/opaque-int-resource" -}}
{{- $today := "(n.startsWith('cmk.intel.com/') && n.endsWith('-cores'))" -}}
{{- $name := printf "%s || n in ['%s-cmk', '%s-kcm']" $today $opaque $opaque -}}
{{- $requests := printf "(has(c.resources.requests) && c.resources.requests.exists(n, %s))" $name -}}
{{- $limits := printf "(has(c.resources.limits) && c.resources.limits.exists(n, %s))" $name -}}
{{- $resources := printf "has(c.resources) && (%s || %s)" $requests $limits -}}
{{- $annotations := "object.metadata.annotations" -}}
(has({{ $annotations }}) && 'cmk.intel.com/mutate' in {{ $annotations }} && {{ $annotations }}['cmk.intel.com/mutate'] in ['true', 'True', '1'])
|| object.spec.containers.exists(c, {{ $resources }})
|| (has(object.spec.initContainers) && object.spec.initContainers.exists(c, {{ $resources }}))
{{- end -}}

{{/* Files of cmk webhook. A change of them restarts its pods, so that no pod uses the old settings when helm is done. */}}
{{- define "cmk.webhook.files" -}}
{{- $webhook := include "cmk.webhook" . | fromJson -}}
{{- $workloads := include "cmk.workloads" . | fromJson -}}
server.yaml: |
  server:
    binding-address: "::"
    port: {{ $webhook.port }}
    cert: /etc/webhook-certificate/tls.crt
    key: /etc/webhook-certificate/tls.key
    mutations: /etc/webhook/mutations.yaml
    workloads:
      install-dir: {{ .Values.installDir | quote }}
      mount-path: {{ $workloads.mountPath | quote }}
      unsupported-runtime-classes: {{ $workloads.unsupportedRuntimeClasses | toJson }}
      cpu-requests: {{ eq (toString $workloads.cpuRequests) "inject" }}
      pools: {{ (include "cmk.exclusivePools" . | fromJson).names | toJson }}
mutations.yaml: |
  {{- dict "mutations" $webhook.mutations | toYaml | nindent 2 }}
{{- end -}}
