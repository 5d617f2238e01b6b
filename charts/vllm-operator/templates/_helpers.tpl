{{/* Names are fixed: helm refuses a second operator for all namespaces over the ClusterRole's name, and a second one for
a namespace over the name of the Role there. */}}
{{- define "vllm-operator.selector" -}}
app.kubernetes.io/name: vllm-operator
{{- end }}

{{- define "vllm-operator.labels" -}}
{{ include "vllm-operator.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "vllm-operator.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}
