{{/* The name of all objects: the release's, with the chart's if that is not in it. */}}
{{- define "shardkeeper.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The labels by which objects find the workers. */}}
{{- define "shardkeeper.selector" -}}
app.kubernetes.io/name: shardkeeper
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "shardkeeper.labels" -}}
{{ include "shardkeeper.selector" . }}
app.kubernetes.io/part-of: shardkeeper
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The image and the settings, the same for the worker and for the check before it. */}}
{{- define "shardkeeper.program" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
envFrom:
  - configMapRef:
      name: {{ include "shardkeeper.name" . }}
  {{- with .Values.envFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  # The same after a restart of the container, so that it resumes with its own shards at once.
  - name: SHARDKEEPER_WORKER_ID
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.volumeMounts }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* The port of /metrics, /live and /ready. */}}
{{- define "shardkeeper.port" -}}
{{- .Values.settings.SHARDKEEPER_METRICS_ADDR | regexFind "[0-9]+$" -}}
{{- end -}}
