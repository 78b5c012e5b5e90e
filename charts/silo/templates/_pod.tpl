{{/* What every pod has: no token, no root, no privileges, a place in the right country. */}}
{{- define "silo.podSecurity" -}}
serviceAccountName: {{ include "silo.fullname" . }}
automountServiceAccountToken: false
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "silo.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "silo.nodeAffinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: {{ .Values.residency.nodeLabel }}
            operator: In
            values: {{ include "silo.regions" . }}
{{- end -}}

{{- define "silo.image" -}}
{{- printf "%s@%s" .repository (required "image.gate.digest and image.worker.digest are required" .digest) -}}
{{- end -}}
