{{- define "service.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "service.labels" -}}
{{ include "service.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | trimSuffix "." | trimSuffix "_" | quote }}
{{- end }}

{{- /* Metadata of every object. Arguments: (list $ NAME COMPONENT WAVE) */ -}}
{{- define "service.metadata" -}}
{{- $ := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "service.labels" $ | nindent 2 }}
  app.kubernetes.io/component: {{ index . 2 }}
annotations:
  argocd.argoproj.io/sync-wave: {{ index . 3 | toString | quote }}
{{- end }}

{{- define "service.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest | quote }}
{{- else -}}
{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion | replace "+" "_") | quote }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Pod Security "restricted", for every pod, Jobs and tests included. */ -}}
{{- define "service.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.placement.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.placement.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.placement.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "service.container" -}}
image: {{ include "service.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* A container that runs a script once, with small fixed resources. */ -}}
{{- define "service.once" -}}
{{ include "service.container" . }}
resources:
  requests: {cpu: 50m, memory: 64Mi}
  limits: {cpu: 500m, memory: 192Mi}
{{- end }}

{{- /* The database host of the serving process: the pooler if it is enabled. */ -}}
{{- define "service.database" -}}
{{- if .Values.postgres.pooler.enabled -}}
{{ .Release.Name }}-pooler
{{- else -}}
{{ .Release.Name }}-db-rw
{{- end -}}
{{- end }}
