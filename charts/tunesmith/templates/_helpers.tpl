{{/* The release's name, or the chart's where the one holds the other. */}}
{{- define "tunesmith.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- default $name .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- end }}

{{/* The operator's objects are called by this. */}}
{{- define "tunesmith.operator" -}}
{{ include "tunesmith.fullname" . }}-operator
{{- end }}

{{- define "tunesmith.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "tunesmith.operator" .) .Values.serviceAccount.name }}
{{- else -}}
{{ required "serviceAccount.create is false: serviceAccount.name must name one that exists" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "tunesmith.labels" -}}
app.kubernetes.io/name: tunesmith
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What the operator's pods are found by; never changes within a release. */}}
{{- define "tunesmith.selector" -}}
app.kubernetes.io/name: tunesmith
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* An image by its digest, else by its tag, else as of this version. Arguments: the root, which image. */}}
{{- define "tunesmith.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end }}

{{- define "tunesmith.pullSecrets" -}}
{{- range .Values.images.pullSecrets }}
- name: {{ . }}
{{- end -}}
{{- end }}

{{/* The only document of a kind in one of the files that `make generate` copies here, as JSON.
     Arguments: the root, the file, the kind. */}}
{{- define "tunesmith.document" -}}
{{- $root := index . 0 -}}{{- $kind := index . 2 -}}
{{- range regexSplit "(?m)^---$" ($root.Files.Get (printf "files/%s" (index . 1))) -1 -}}
{{- $document := fromYaml . -}}
{{- if eq $document.kind $kind }}{{ toJson $document }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The rules of a role in one of these files. Arguments as above. */}}
{{- define "tunesmith.rules" -}}
{{ (include "tunesmith.document" . | fromJson).rules | toYaml }}
{{- end }}

{{/* Whether KServe's runtime is installed: what the value says, or whether this cluster knows the kind. */}}
{{- define "tunesmith.serving" -}}
{{- $enabled := .Values.serving.enabled | toString -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (.Capabilities.APIVersions.Has "serving.kserve.io/v1alpha1")) -}}
true
{{- end -}}
{{- end }}
