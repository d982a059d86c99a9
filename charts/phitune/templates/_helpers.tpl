{{/* Name of every object: the release's name, with "phitune" in it exactly once. */}}
{{- define "phitune.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "phitune" .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-phitune" .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of a cluster-wide object: two releases in two namespaces must not fight over it. */}}
{{- define "phitune.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "phitune.fullname" .) -}}
{{- end -}}

{{- define "phitune.selectorLabels" -}}
app.kubernetes.io/name: phitune-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "phitune.labels" -}}
{{ include "phitune.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "phitune.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "phitune.fullname" .) -}}
{{- end -}}

{{/* "true" where the cluster's own scheduler places gangs: by wish, or where it has what that takes. */}}
{{- define "phitune.gangScheduling" -}}
{{- $apis := .Capabilities.APIVersions -}}
{{- $has := and ($apis.Has "scheduling.k8s.io/v1alpha2/PodGroup") ($apis.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy") -}}
{{- if or (eq .Values.gangScheduling "enabled") (and $has (eq .Values.gangScheduling "auto")) -}}
true
{{- end -}}
{{- end -}}

{{- define "phitune.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Images by build as JSON: what is named, else the one for all, else ours where it is such a build. None: one for all. */}}
{{- define "phitune.trainerImages" -}}
{{- $images := .Values.trainer.images | default dict -}}
{{- $all := .Values.trainer.image -}}
{{- if and $all (not $images.flash) (not $images.plain) (not $images.v100) -}}
{}
{{- else -}}
{{- $ours := include "phitune.trainerImage" . -}}
{{- dict "flash" ($images.flash | default $ours) "plain" ($images.plain | default $ours) "v100" ($images.v100 | default $all) | toJson -}}
{{- end -}}
{{- end -}}

{{- define "phitune.trainerImage" -}}
{{- .Values.trainer.image | default (printf "localhost/phitune/trainer:%s" .Chart.AppVersion) -}}
{{- end -}}
