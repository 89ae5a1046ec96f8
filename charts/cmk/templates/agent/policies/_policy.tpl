{{/*
ValidatingAdmissionPolicies that let an agent write its own node only, which RBAC cannot do: a node that is broken into has its agent's token.

A token that kubelet fetched for a pod names the pod's node, and the API server vouches for it. A token that names none, for it was made for no
pod or by an API server before 1.30, may write nothing.
*/}}

{{/* "true" where the policies are to exist. Without a cluster (helm template) Helm knows its version alone, which 1.30 and later answer for. */}}
{{- define "cmk.policies" -}}
{{- $mode := .Values.agent.ownNodePolicy | default "auto" -}}
{{- $versions := .Capabilities.APIVersions -}}
{{- $asked := $versions.Has "apps/v1/DaemonSet" -}}
{{- $served := ternary ($versions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) $asked -}}
{{- if or (eq $mode "always") (and (eq $mode "auto") $served) -}}true{{- end -}}
{{- end -}}

{{- define "cmk.policy.name" -}}{{ include "cmk.agent.name" .root }}-{{ .of }}{{- end -}}

{{/* Kind and metadata of a policy, and the part of its spec that all have. Call with (dict "root" $ "of" NAME). */}}
{{- define "cmk.policy.head" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ include "cmk.policy.name" . }}
  labels:
    {{- include "cmk.labels" (dict "root" .root "component" "node") | nindent 4 }}
spec:
  failurePolicy: Fail
  # Requests of all others, which are most, cost one comparison.
  matchConditions:
    - name: is-an-agent
      expression: request.userInfo.username == 'system:serviceaccount:{{ .root.Release.Namespace }}:{{ include "cmk.agent.name" .root }}'
{{- end -}}

{{/* The variable `node`: the node that the token is for, '' if it names none, which is the name of no object. */}}
{{- define "cmk.policy.node" -}}
- name: node
  expression: request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')
{{- end -}}

{{- define "cmk.policy.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "cmk.policy.name" . }}
  labels:
    {{- include "cmk.labels" (dict "root" .root "component" "node") | nindent 4 }}
spec:
  policyName: {{ include "cmk.policy.name" . }}
  validationActions: [Deny]
{{- end -}}

{{/*
CEL: two objects have the same fields, but for those for which `except` is true of `key`. Call with (list NEW OLD EXCEPT). Written with dyn,
for fields of a type that CEL knows cannot be iterated over.
*/}}
{{- define "cmk.policy.same" -}}
dyn({{ index . 0 }}).all(key, {{ index . 2 }} || (key in dyn({{ index . 1 }}) && dyn({{ index . 0 }})[key] == dyn({{ index . 1 }})[key]))
&& dyn({{ index . 1 }}).all(key, {{ index . 2 }} || key in dyn({{ index . 0 }}))
{{- end -}}

{{/* CEL: what the API server itself writes into the metadata of an object. */}}
{{- define "cmk.policy.servers" -}}key in ['managedFields', 'resourceVersion', 'generation']{{- end -}}
