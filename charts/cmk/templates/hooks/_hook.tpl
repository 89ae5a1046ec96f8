{{/*
A hook's Job. Call with (dict "root" $ "name" suffix "account" name "events" "pre-install,…" "weight" number "args" list), and where they are
needed "seconds" it may take (hooks.activeDeadlineSeconds), "volumes" and "mounts".
*/}}
{{- define "cmk.hook" -}}
{{- $root := .root -}}
{{- $hooks := include "cmk.hooks" $root | fromJson -}}
{{- $labels := include "cmk.labels" (dict "root" $root "component" "hook") -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ printf "%s-%s" (include "cmk.fullname" $root) .name }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" . | nindent 2 }}
spec:
  backoffLimit: {{ $hooks.backoffLimit }}
  activeDeadlineSeconds: {{ .seconds | default $hooks.activeDeadlineSeconds }}
  podFailurePolicy:
    rules:
      # Who evicts pods uses up no try.
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget}]
      # What the hook says itself does not change by being asked again. An API server that is away (75) does.
      - action: FailJob
        onExitCodes: {containerName: hook, operator: In, values: [1, 2]}
  template:
    metadata:
      labels:
        {{- $labels | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .account }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- include "cmk.pullSecrets" $root | nindent 6 }}
      {{- with $hooks.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $hooks.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $hooks.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
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

{{/*
Account and rights of a hook. Call with (dict "root" $ "account" name "clusterRules" text), and where they are needed "rules" in the
release's namespace. With "events" and "weight" they are hooks themselves, before a Job of that weight; without, they stand.
*/}}
{{- define "cmk.hook.rights" -}}
{{- $root := .root -}}
{{- $roles := . -}}
{{- $bindings := . -}}
{{- if .events -}}
{{- $roles = merge (dict "weight" (sub .weight 5)) . -}}
{{- $bindings = merge (dict "weight" (sub .weight 4)) . -}}
{{- end -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .account }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" $roles | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .account }}
  {{- include "cmk.hook.marks" $roles | nindent 2 }}
rules:
  {{- .clusterRules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .account }}
  {{- include "cmk.hook.marks" $bindings | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .account }}}
subjects:
  - {kind: ServiceAccount, name: {{ .account }}, namespace: {{ $root.Release.Namespace }}}
{{- if .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .account }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" $roles | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .account }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.marks" $bindings | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .account }}}
subjects:
  - {kind: ServiceAccount, name: {{ .account }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}
{{- end -}}

{{- define "cmk.hook.marks" -}}
labels:
  {{- /* What a hook that failed leaves is deleted by its label, and what stands is not. */ -}}
  {{- include "cmk.labels" (dict "root" .root "component" (ternary "hook" "hook-rights" (hasKey . "events"))) | nindent 2 }}
{{- if .events }}
annotations:
  helm.sh/hook: {{ .events }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
  helm.sh/hook-output-log-policy: hook-failed
{{- end }}
{{- end -}}

{{/* The account of hooks that look at the cluster, and its rights. It stands, for making it anew for every hook takes longer than the hook. */}}
{{- define "cmk.hook.account" -}}{{ include "cmk.fullname" . }}-hooks{{- end -}}
{{- define "cmk.hook.looks" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
- apiGroups: [cmk.intel.com]
  resources: [cmk-nodereports]
  verbs: [list]
{{- end -}}

{{/*
Whether that account is there before an upgrade, with just these rights: an older chart had none, somebody may have changed them, and who
renders without a cluster cannot know.
*/}}
{{- define "cmk.hook.stands" -}}
{{- $name := include "cmk.hook.account" . -}}
{{- $group := "rbac.authorization.k8s.io/v1" -}}
{{- $role := lookup $group "ClusterRole" "" $name | default dict -}}
{{- $binding := lookup $group "ClusterRoleBinding" "" $name | default dict -}}
{{- $bound := list $binding.roleRef $binding.subjects | toJson -}}
{{- $wanted := list
  (dict "apiGroup" "rbac.authorization.k8s.io" "kind" "ClusterRole" "name" $name)
  (list (dict "kind" "ServiceAccount" "name" $name "namespace" .Release.Namespace)) | toJson
-}}
{{- if and (lookup "v1" "ServiceAccount" .Release.Namespace $name) (eq $bound $wanted) (eq (toJson $role.rules) (include "cmk.hook.looks" . | fromYamlArray | toJson)) -}}
true
{{- end -}}
{{- end -}}
