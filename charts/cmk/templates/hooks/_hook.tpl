{{/*
A hook: account, rights, Job. Call with (dict "root" $ "name" suffix "events" "pre-install,…" "weight" number "args" list "clusterRules"), and
where they are needed "rules", "seconds" it may take (120), "volumes" and "mounts".
Account and rights come before the Job, on the same events and with the same policy; each hook has its own.
*/}}
{{- define "cmk.hook" -}}
{{- $root := .root -}}
{{- $name := printf "%s-%s" (include "cmk.fullname" $root) .name -}}
{{- $labels := include "cmk.labels" (dict "root" $root "component" "hook") -}}
{{- $common := dict "labels" $labels "events" .events -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" (merge (dict "weight" (sub .weight 5)) $common) | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $name }}
  {{- include "cmk.hook.marks" (merge (dict "weight" (sub .weight 5)) $common) | nindent 2 }}
rules:
  {{- .clusterRules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  {{- include "cmk.hook.marks" (merge (dict "weight" (sub .weight 4)) $common) | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $name }}, namespace: {{ $root.Release.Namespace }}}
{{- if .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" (merge (dict "weight" (sub .weight 5)) $common) | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" (merge (dict "weight" (sub .weight 4)) $common) | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $name }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" (merge (dict "weight" .weight) $common) | nindent 2 }}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: {{ .seconds | default 120 }}
  template:
    metadata:
      labels:
        {{- $labels | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- include "cmk.pullSecrets" $root | nindent 6 }}
      # It must run whatever the nodes are tainted with, our own taint included.
      tolerations:
        - operator: Exists
      containers:
        - name: hook
          image: {{ include "cmk.image" $root | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args:
            {{- toYaml .args | nindent 12 }}
          resources:
            requests: {cpu: 10m, memory: 48Mi}
            limits: {memory: 128Mi}
          securityContext:
            {{- include "cmk.lockedDown" . | nindent 12 }}
          {{- with .mounts }}
          volumeMounts:
            {{- toYaml . | nindent 12 }}
          {{- end }}
      {{- with .volumes }}
      volumes:
        {{- . | nindent 8 }}
      {{- end }}
{{- end -}}

{{- define "cmk.hook.marks" -}}
labels:
  {{- .labels | nindent 2 }}
annotations:
  helm.sh/hook: {{ .events }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
  helm.sh/hook-output-log-policy: hook-failed
{{- end -}}

{{/* The rights of who looks at nodes and how they are doing. */}}
{{- define "cmk.hook.looks" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
- apiGroups: [cmk.intel.com]
  resources: [cmk-nodereports]
  verbs: [list]
{{- end -}}

{{/* The rights of both who put the CA in place. */}}
{{- define "cmk.hook.configuration" -}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [{{ include "cmk.webhook.name" . }}]
  verbs: [get, patch]
{{- end -}}
