{{- /* Labels of every object. */}}
{{- define "migfit.labels" -}}
app.kubernetes.io/name: migfit
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* What selects the pods of a component: list $ "webhook". */}}
{{- define "migfit.selector" -}}
app.kubernetes.io/name: migfit
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "migfit.version" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* An image: dict "repository" … "tag" … "digest" …, and the tag to take where none is given. */}}
{{- define "migfit.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1) }}
{{- end }}
{{- end }}

{{- /* The scheduler that rewritten pods are handed to; empty for none. */}}
{{- define "migfit.injectedScheduler" -}}
{{- $said := dig "inject" "schedulerName" "" .Values.config -}}
{{- if eq .Values.packing "SecondScheduler" -}}
{{- if not (has $said (list "" "migfit-scheduler")) -}}
{{- fail "config.inject.schedulerName: leave it empty with packing SecondScheduler, which sets it to migfit-scheduler" -}}
{{- end -}}
migfit-scheduler
{{- else -}}
{{ $said }}
{{- end -}}
{{- end }}

{{- /* The configuration: what is under config, with what packing and firstSteps stand for. */}}
{{- define "migfit.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.mode -}}
{{- $_ := set $config "mode" (ternary "DryRun" "Enforce" .Values.firstSteps) -}}
{{- end -}}
{{- $inject := $config.inject | default dict -}}
{{- with include "migfit.injectedScheduler" . -}}
{{- $_ := set $inject "schedulerName" . -}}
{{- end -}}
{{- if eq .Values.packing "WebhookOnly" -}}
{{- $_ := set $inject "preferUsedNodes" true -}}
{{- end -}}
{{- $_ := set $config "inject" $inject -}}
apiVersion: migfit.io/v1alpha1
kind: MigfitConfiguration
{{ toYaml $config }}
{{- end }}

{{- /* Arguments that every process has. */}}
{{- define "migfit.args" -}}
- serve
- --configmap={{ .Release.Namespace }}/migfit-config
- --ops-port=9090
- --lame-duck=5
{{- end }}

{{- /* Arguments about the certificate, of those who show it. */}}
{{- define "migfit.certificateArgs" -}}
{{- if eq .Values.certificate.from "CertManager" }}
- --tls-cert=/etc/migfit/tls/tls.crt
- --tls-key=/etc/migfit/tls/tls.key
{{- end }}
{{- end }}

{{- /* What all pods have in common, within the Pod Security Standard `restricted`:
       dict "root" $ "component" "webhook" "account" "migfit" "secrets" true. */}}
{{- define "migfit.pod" -}}
serviceAccountName: {{ .account }}
automountServiceAccountToken: true
# A Service named migfit-… would otherwise set MIGFIT_… variables, which are settings to us.
enableServiceLinks: false
{{- if eq .component "webhook" }}
# 5 s of lame duck, up to 95 s until the API server has closed its connections (closed by us, a
# review may be lost), and at most 5 s to drain.
terminationGracePeriodSeconds: 120
{{- else }}
# 5 s of lame duck and at most 5 s to drain.
terminationGracePeriodSeconds: 30
{{- end }}
{{- include "migfit.podSettings" .root }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
{{- if .secrets }}
  fsGroup: 65532 # may read mounted certificates
{{- end }}
  seccompProfile:
    type: RuntimeDefault
# On different nodes where there are some; on a cluster of one node all run there.
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "migfit.selector" (list .root .component) | nindent 8 }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What of a pod is the same wherever it runs, as further fields. */}}
{{- define "migfit.podSettings" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Labels and annotations of the pods of a component: list $ "webhook". */}}
{{- define "migfit.podLabels" -}}
{{- include "migfit.selector" . }}
{{ include "migfit.version" (index . 0) }}
{{- with (index . 0).Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What every container of ours has in common. */}}
{{- define "migfit.container" -}}
image: {{ include "migfit.image" (list .Values.image .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.traces.endpoint }}
env:
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ . | quote }}
{{- end }}
startupProbe: # the first lists of a large cluster, or an API server that starts too
  httpGet:
    path: /healthz
    port: ops
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
readinessProbe: # false until the first lists are in, and again from SIGTERM on
  httpGet:
    path: /readyz
    port: ops
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe: # asks the process alone: a restart mends no API server
  httpGet:
    path: /healthz
    port: ops
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{ include "migfit.security" . }}
{{- end }}

{{- define "migfit.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* The certificate of cert-manager, for those who show it. */}}
{{- define "migfit.tlsMount" -}}
- name: tls
  mountPath: /etc/migfit/tls # the folder, not files by subPath: those are never renewed
  readOnly: true
{{- end }}
{{- define "migfit.tlsVolume" -}}
- name: tls
  secret:
    secretName: migfit-tls
    defaultMode: 0440
{{- end }}

{{- /* A binding, in the release's namespace for a RoleBinding:
       dict "root" $ "kind" "RoleBinding" "name" … "role" (list "Role" …) "accounts" (list …). */}}
{{- define "migfit.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- if eq .kind "RoleBinding" }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
  labels:
    {{- include "migfit.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ index .role 0 }}
  name: {{ index .role 1 }}
subjects:
  {{- range .accounts }}
  - kind: ServiceAccount
    name: {{ . }}
    namespace: {{ $.root.Release.Namespace }}
  {{- end }}
{{- end }}

{{- /* list $ "migfit" */}}
{{- define "migfit.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "migfit.labels" (index . 0) | nindent 4 }}
automountServiceAccountToken: false # the Deployment asks for it
{{- end }}

{{- /* list $ "migfit" "webhook" */}}
{{- define "migfit.podDisruptionBudget" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.podDisruptionBudget -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "migfit.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ index . 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow # a replica that does not work must not hold up a drain
  selector:
    matchLabels:
      {{- include "migfit.selector" (list $root (index . 2)) | nindent 6 }}
{{- end }}
{{- end }}

{{- /* list $ "migfit" "webhook", and by port who may come: list "webhook" cidrs. An empty list is anywhere. */}}
{{- define "migfit.networkPolicy" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.networkPolicy.enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "migfit.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ index . 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "migfit.selector" (list $root (index . 2)) | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    {{- range $name := index . 3 }}
    - ports:
        - port: {{ $name }}
      {{- with $root.Values.networkPolicy.callers }}
      from:
        {{- range . }}
        - ipBlock:
            cidr: {{ . | quote }}
        {{- end }}
      {{- end }}
    {{- end }}
    {{- range $name := index . 4 }}
    - ports:
        - port: {{ $name }}
      {{- with $root.Values.networkPolicy.scrapers }}
      from:
        - namespaceSelector:
            matchExpressions:
              - key: kubernetes.io/metadata.name
                operator: In
                values: {{ toJson . }}
      {{- end }}
    {{- end }}
{{- end }}
{{- end }}

{{- /* A sample of deploy/scheduler, made to fit this release: list $ "second-scheduler". */}}
{{- define "migfit.schedulerConfiguration" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (printf "files/%s.yaml" (index . 1)) -}}
{{- $text = $text | replace "migfit-system" $root.Release.Namespace -}}
{{- $text = $text | replace "{name: nvidia.com/gpu," (printf "{name: %s," $root.Values.config.gpuResource) -}}
{{- with $root.Values.extender.clusterIP -}}
{{- $text = $text | replace "CLUSTER-IP" (ternary (printf "[%s]" .) . (contains ":" .)) -}}
{{- end -}}
{{- $text | trim -}}
{{- end }}
