{{- define "silo.name" -}}
{{- default "concordat-silo" .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "silo.fullname" -}}
{{- $name := include "silo.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 24 | trimSuffix "-") $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "silo.selector" -}}
app.kubernetes.io/name: {{ include "silo.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "silo.labels" -}}
{{ include "silo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: concordat
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The country the silo's pods have to stand in: from the values, or out of the policy. */}}
{{- define "silo.country" -}}
{{- $policy := dict -}}
{{- if .Values.policy.content -}}
{{- $policy = fromYaml .Values.policy.content -}}
{{- if $policy.Error -}}{{- fail (printf "policy.content is not YAML: %s" $policy.Error) -}}{{- end -}}
{{- end -}}
{{- $named := dig "residency" "silo" "" $policy -}}
{{- /* Helm reads YAML 1.1, in which Norway's NO is false; the policy language reads 1.2. */ -}}
{{- if kindIs "bool" $named -}}{{- $named = "NO" -}}{{- end -}}
{{- if and .Values.residency.country $named (ne .Values.residency.country $named) -}}
{{- fail (printf "residency.country is %s, but the policy places the silo in %s: correct the one that is wrong" .Values.residency.country $named) -}}
{{- end -}}
{{- $country := default $named .Values.residency.country -}}
{{- if not $country -}}
{{- fail "residency.country is not set, and there is no policy.content with residency.silo to take it from" -}}
{{- end -}}
{{- $country -}}
{{- end -}}

{{/* The regions that lie in that country, as a JSON list. */}}
{{- define "silo.regions" -}}
{{- $country := include "silo.country" . -}}
{{- $regions := get .Values.residency.regions $country -}}
{{- if not $regions -}}
{{- fail (printf "residency.regions has no entry for %s: list the values of the node label %s that lie there" $country .Values.residency.nodeLabel) -}}
{{- end -}}
{{- toJson $regions -}}
{{- end -}}

{{- define "silo.policyConfigMap" -}}
{{- default (printf "%s-policy" (include "silo.fullname" .)) .Values.policy.existingConfigMap -}}
{{- end -}}

{{/* generated, certManager or existing. */}}
{{- define "silo.certificates" -}}
{{- $mode := .Values.channel.certificates.mode -}}
{{- if eq $mode "auto" -}}
{{- ternary "certManager" "generated" (.Capabilities.APIVersions.Has "cert-manager.io/v1") -}}
{{- else -}}
{{- $mode -}}
{{- end -}}
{{- end -}}

{{- define "silo.gateSecret" -}}
{{- if eq (include "silo.certificates" .) "existing" -}}
{{- required "channel.certificates.gateSecret is required with mode existing" .Values.channel.certificates.gateSecret -}}
{{- else -}}
{{- printf "%s-gate-channel" (include "silo.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "silo.workerSecret" -}}
{{- if eq (include "silo.certificates" .) "existing" -}}
{{- required "channel.certificates.workerSecret is required with mode existing" .Values.channel.certificates.workerSecret -}}
{{- else -}}
{{- printf "%s-worker-channel" (include "silo.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The variable in which Kubernetes tells the worker's pod the gate's address. */}}
{{- define "silo.gateHostVariable" -}}
{{- printf "%s_GATE_SERVICE_HOST" (include "silo.fullname" . | upper | replace "-" "_") -}}
{{- end -}}

{{- define "silo.home" -}}/var/lib/concordat/home{{- end -}}
