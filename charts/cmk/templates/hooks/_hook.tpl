{{/*
Job of a hook. Call with (dict "root" $ "name" suffix "account" name "events" "pre-install,…" "weight" number "args" list). Optional:
"seconds", its deadline (default: hooks.activeDeadlineSeconds), and "config", (dict "name" name "hosts" prefix) of the ConfigMaps that are
mounted at /config.
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
  {{- include "cmk.hook.metadata" . | nindent 2 }}
spec:
  backoffLimit: {{ $hooks.backoffLimit }}
  activeDeadlineSeconds: {{ .seconds | default $hooks.activeDeadlineSeconds }}
  podFailurePolicy:
    rules:
      # An eviction of the pod does not count as a failed try.
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget}]
      # Another try does not change a refusal. It may help when the API server was away (exit code 75).
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
            {{- include "cmk.restricted" . | nindent 12 }}
          {{- if .config }}
          volumeMounts:
            - mountPath: /config
              name: config
              readOnly: true
          {{- end }}
      {{- with .config }}
      volumes:
        - name: config
          projected:
            sources:
              - configMap:
                  name: {{ .name }}
                  items: [{key: config.json, path: config.json}]
              {{- range $shard := (include "cmk.shardNames" $root | fromJson).names }}
              - configMap:
                  name: {{ $.config.hosts }}-{{ $shard }}
                  items: [{key: hosts.json, path: hosts-{{ $shard }}.json}]
              {{- end }}
      {{- end }}
{{- end -}}

{{/*
Account and rights of a hook. Call with (dict "root" $ "account" name "clusterRules" text). Optional: "rules", rights in the release's
namespace. With "events" and "weight" these objects are hooks themselves, which run before a Job of that weight; without, they belong to the
release.
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
  {{- include "cmk.hook.metadata" $roles | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .account }}
  {{- include "cmk.hook.metadata" $roles | nindent 2 }}
rules:
  {{- .clusterRules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .account }}
  {{- include "cmk.hook.metadata" $bindings | nindent 2 }}
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
  {{- include "cmk.hook.metadata" $roles | nindent 2 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .account }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "cmk.hook.metadata" $bindings | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .account }}}
subjects:
  - {kind: ServiceAccount, name: {{ .account }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}
{{- end -}}

{{/*
Labels of a hook's object, and with "events" and "weight" the annotations that make it a hook. Call with the dict of cmk.hook or
cmk.hook.rights.
*/}}
{{- define "cmk.hook.metadata" -}}
labels:
  {{- /* UPGRADE.md deletes the objects of failed hooks by component=hook; objects of the release have another component. */ -}}
  {{- include "cmk.labels" (dict "root" .root "component" (ternary "hook" "hook-rights" (hasKey . "events"))) | nindent 2 }}
{{- if .events }}
annotations:
  helm.sh/hook: {{ .events }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
  helm.sh/hook-output-log-policy: hook-failed
{{- end }}
{{- end -}}

{{/*
Cluster-wide rights of the hooks plan and verify. Their account belongs to the release, because making it for every hook takes longer than
the hook.
*/}}
{{- define "cmk.hook.readRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
- apiGroups: [cmk.intel.com]
  resources: [cmk-nodereports]
  verbs: [list]
{{- end -}}

{{/*
"true" if that account exists in the cluster with exactly these rights, else nothing. Before an upgrade it may be missing, because an older
chart had none or because the objects were edited; rendered without a cluster it counts as missing.
*/}}
{{- define "cmk.hook.accountInPlace" -}}
{{- $name := include "cmk.hook.account" . -}}
{{- $group := "rbac.authorization.k8s.io/v1" -}}
{{- $role := lookup $group "ClusterRole" "" $name | default dict -}}
{{- $binding := lookup $group "ClusterRoleBinding" "" $name | default dict -}}
{{- $bound := list $binding.roleRef $binding.subjects | toJson -}}
{{- $wanted := list
  (dict "apiGroup" "rbac.authorization.k8s.io" "kind" "ClusterRole" "name" $name)
  (list (dict "kind" "ServiceAccount" "name" $name "namespace" .Release.Namespace)) | toJson
-}}
{{- $rules := include "cmk.hook.readRules" . | fromYamlArray | toJson -}}
{{- $account := lookup "v1" "ServiceAccount" .Release.Namespace $name -}}
{{- if and $account (eq $bound $wanted) (eq (toJson $role.rules) $rules) -}}
true
{{- end -}}
{{- end -}}
