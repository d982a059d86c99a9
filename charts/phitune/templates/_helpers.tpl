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
app.kubernetes.io/instance: {{ .Release.Name | quote }}
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

{{/*
Image of a build of the trainer's: the one that is named for it, else the one for all, else the release's, which lies
beside the operator's and has its tag.
*/}}
{{- define "phitune.imageOfBuild" -}}
{{- $values := .root.Values -}}
{{- with get ($values.trainer.images | default dict) .build | default $values.trainer.image -}}
{{- . -}}
{{- else -}}
{{- $operator := $values.image.repository -}}
{{- if not (hasSuffix "operator" $operator) -}}
{{- fail (printf "trainer.image: image.repository is %s, which does not end in operator, so the trainer's images are not known; name one, or those of all builds in trainer.images" $operator) -}}
{{- end -}}
{{- printf "%strainer:%s-%s" (trimSuffix "operator" $operator) ($values.image.tag | default .root.Chart.AppVersion) .build -}}
{{- end -}}
{{- end -}}

{{/* Images by build as JSON; none where one is for all. */}}
{{- define "phitune.trainerImages" -}}
{{- $images := .Values.trainer.images | default dict -}}
{{- $found := dict -}}
{{- if or (not .Values.trainer.image) $images.flash $images.plain $images.v100 -}}
{{- range list "flash" "plain" "v100" -}}
{{- if or (get $images .) $.Values.trainer.image (hasSuffix "operator" $.Values.image.repository) -}}
{{- $_ := set $found . (include "phitune.imageOfBuild" (dict "root" $ "build" .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Image of pods without a GPU, and of a user's helper pods. */}}
{{- define "phitune.trainerImage" -}}
{{- if .Values.trainer.image -}}
{{- .Values.trainer.image -}}
{{- else -}}
{{- include "phitune.imageOfBuild" (dict "root" . "build" "plain") -}}
{{- end -}}
{{- end -}}
