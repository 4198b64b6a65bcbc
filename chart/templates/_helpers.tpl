{{/*
Start of every name, at most 36 characters. Kubernetes cuts a pod's host name at 63 characters, and "-scheduler" with the
two hashes that Kubernetes appends takes 27: with cut host names two workers would look like one. A longer name keeps its
first 29 characters, followed by 6 of its SHA-256, so that releases with the same beginning get different names.
*/}}
{{- define "future-kubernetes.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- end -}}
{{- if gt (len $name) 36 -}}
{{- printf "%s-%s" ($name | trunc 29 | trimSuffix "-") (sha256sum $name | trunc 6) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods of one component. Immutable once deployed. Call with (list $ "scheduler"). */}}
{{- define "future-kubernetes.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/*
Labels of a pod. The chart's version is left out, since it would restart R sessions at every new version. `component` is
for commands such as `kubectl get pod -l component=scheduler`.
*/}}
{{- define "future-kubernetes.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "future-kubernetes.selectorLabels" . }}
app.kubernetes.io/part-of: {{ $root.Chart.Name }}
component: {{ index . 1 }}
{{- with $root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of every other object. Call with (list $ "scheduler"). */}}
{{- define "future-kubernetes.labels" -}}
{{- $root := index . 0 -}}
{{ include "future-kubernetes.selectorLabels" . }}
app.kubernetes.io/part-of: {{ $root.Chart.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Labels of an object that another program selects by labels of its own. Call with (list $ "scheduler" map). A label of
the whole release wins, since a key may stand in an object only once.
*/}}
{{- define "future-kubernetes.labelsWith" -}}
{{- $root := index . 0 -}}
{{ include "future-kubernetes.labels" . }}
{{- range $key, $value := index . 2 }}
{{- if not (hasKey $root.Values.labels $key) }}
{{ $key }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
An error where Prometheus could not read the metrics. A missing CRD is reported before anything is created, if the
cluster can be asked: `lookup` finds the ConfigMap kube-root-ca.crt, which every namespace has.
*/}}
{{- define "future-kubernetes.checkMonitoring" -}}
{{- if and .Values.networkPolicy.enabled (not .Values.monitoring.namespace) (not .Values.networkPolicy.metricsFrom) -}}
{{- fail "monitoring.enabled is true, but monitoring.namespace and networkPolicy.metricsFrom are empty, so that no Prometheus could read the metrics. Give the namespace of Prometheus: --set monitoring.namespace=NAME" -}}
{{- end -}}
{{- if lookup "v1" "ConfigMap" .Release.Namespace "kube-root-ca.crt" -}}
{{- range $kind := list "ServiceMonitor" "PrometheusRule" -}}
{{- if not ($.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind)) -}}
{{- fail (printf "monitoring.enabled is true, but this cluster has no %s: the Prometheus operator is not installed. Install it, for example by the chart kube-prometheus-stack, or give --set monitoring.enabled=false (stack: pulumi config set monitoring false)." $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The image, or an error with the option that sets it. */}}
{{- define "future-kubernetes.image" -}}
{{- required "image is empty. Give the image that scheduler and workers run: --set image=REGISTRY/NAME@sha256:DIGEST" .Values.image -}}
{{- end -}}

{{/*
Name of the Secret, or an error with the command that creates one. A missing Secret or key is reported before anything is
created, if the cluster can be asked: `lookup` finds the ConfigMap kube-root-ca.crt, which every namespace has.
The command does not use --from-literal, which would show the secret in the list of processes.
*/}}
{{- define "future-kubernetes.secretName" -}}
{{- $namespace := .Release.Namespace -}}
{{- $name := .Values.auth.existingSecret -}}
{{- $command := printf "kubectl --namespace %s create secret generic %s --from-file=password=<(printf %%s \"$(openssl rand -hex 12)\") --from-file=token=<(printf %%s \"$(openssl rand -hex 32)\")" $namespace ($name | default "NAME") -}}
{{- if not $name -}}
{{- fail (printf "auth.existingSecret is empty. It must name a Secret with the keys password and token. Create one and name it:\n  %s\n  helm ... --set auth.existingSecret=NAME" $command) -}}
{{- end -}}
{{- if lookup "v1" "ConfigMap" $namespace "kube-root-ca.crt" -}}
{{- $secret := lookup "v1" "Secret" $namespace $name -}}
{{- if not $secret -}}
{{- fail (printf "auth.existingSecret: there is no Secret %q in namespace %q. Create it:\n  %s" $name $namespace $command) -}}
{{- end -}}
{{- range $key := list "password" "token" -}}
{{- if not (hasKey ($secret.data | default dict) $key) -}}
{{- fail (printf "auth.existingSecret: Secret %q in namespace %q has no key %q. Delete it and create it anew:\n  kubectl --namespace %s delete secret %s\n  %s" $name $namespace $key $namespace $name $command) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* `true` with single sign-on, or an error with the value that it lacks; else empty. */}}
{{- define "future-kubernetes.oidc" -}}
{{- if .Values.oidc.issuer -}}
{{- $command := printf "kubectl --namespace %s create secret generic %s --from-file=client-secret=FILE --from-file=cookie-secret=<(printf %%s \"$(openssl rand -hex 16)\")" .Release.Namespace (.Values.oidc.existingSecret | default "NAME") -}}
{{- if not .Values.host -}}
{{- fail "oidc.issuer is set, but host is empty: single sign-on is in front of a public address. Give it: --set host=r.example.org" -}}
{{- end -}}
{{- if not .Values.oidc.clientId -}}
{{- fail "oidc.clientId is empty. Give the ID by which the provider knows this release: --set oidc.clientId=ID" -}}
{{- end -}}
{{- if not .Values.oidc.existingSecret -}}
{{- fail (printf "oidc.existingSecret is empty. It must name a Secret with the keys client-secret and cookie-secret. Create one and name it:\n  %s\n  helm ... --set oidc.existingSecret=NAME" $command) -}}
{{- end -}}
{{- if not .Values.oidc.users -}}
{{- fail "oidc.users is empty, so that no one could log in. Give e-mail addresses, @DOMAIN, or * for everybody whom the provider lets in: --set 'oidc.users={ada@example.org}'" -}}
{{- end -}}
{{- if lookup "v1" "ConfigMap" .Release.Namespace "kube-root-ca.crt" -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace .Values.oidc.existingSecret -}}
{{- range $key := list "client-secret" "cookie-secret" -}}
{{- if not (hasKey (dig "data" dict ($secret | default dict)) $key) -}}
{{- fail (printf "oidc.existingSecret: there is no Secret %q with the key %q in namespace %q. Create it:\n  %s" $.Values.oidc.existingSecret $key $.Release.Namespace $command) -}}
{{- end -}}
{{- end -}}
{{- end -}}
true
{{- else if or .Values.oidc.clientId .Values.oidc.existingSecret .Values.oidc.users -}}
{{- fail "oidc.issuer is empty, and other values of oidc are set: nothing would ask for a login. Give the provider: --set oidc.issuer=https://..." -}}
{{- end -}}
{{- end -}}

{{/* Largest number of workers that R may ask for. An error where it is below worker.replicas. */}}
{{- define "future-kubernetes.maxReplicas" -}}
{{- $replicas := int .Values.worker.replicas -}}
{{- $maximum := int .Values.worker.maxReplicas -}}
{{- if and $maximum (lt $maximum $replicas) -}}
{{- fail (printf "worker.maxReplicas is %d, below worker.replicas, which is %d. Give at least %d, or 0 for as many as worker.replicas." $maximum $replicas $replicas) -}}
{{- end -}}
{{- $maximum | default $replicas -}}
{{- end -}}

{{/*
Number of workers to deploy. R and `idleMinutes` change the number in the cluster, and Helm would reset it at every
upgrade. So an upgrade with the same worker.replicas keeps the live number, at most maxReplicas. An upgrade with another
worker.replicas sets that. The annotation on the Deployment holds the worker.replicas of the last upgrade.
*/}}
{{- define "future-kubernetes.liveReplicas" -}}
{{- $wanted := int .Values.worker.replicas -}}
{{- $maximum := include "future-kubernetes.maxReplicas" . | int -}}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-worker" (include "future-kubernetes.fullname" .)) -}}
{{- $last := dig "metadata" "annotations" "future-kubernetes/replicas" "" ($live | default dict) -}}
{{- if eq $last (toString $wanted) -}}
{{- min (int $live.spec.replicas) $maximum -}}
{{- else -}}
{{- $wanted -}}
{{- end -}}
{{- end -}}

{{/*
`paused: true` for a Deployment that is there already, by a list of the root and the component. A new one is never
paused: Kubernetes would make no pod for it.
*/}}
{{- define "future-kubernetes.paused" -}}
{{- $root := index . 0 -}}
{{- $name := printf "%s-%s" (include "future-kubernetes.fullname" $root) (index . 1) -}}
{{- if and $root.Values.pauseRollouts (lookup "apps/v1" "Deployment" $root.Release.Namespace $name) -}}
paused: true
{{- end -}}
{{- end -}}

{{/*
User of every pod: the image's user rstudio, who owns /home/rstudio. Without fsGroup this user could not read the
Secret's files or write to volumes. With `anyUser` the cluster sets both: it refuses a pod that names them.
*/}}
{{- define "future-kubernetes.podSecurityContext" -}}
runAsNonRoot: true
{{- if not .Values.anyUser }}
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
With `anyUser`: writes the image's list of users, with rstudio as the pod's user, which no image knows. Without an entry
RStudio and Python find no user. Call with (list $ RESOURCES), since a quota counts init containers.
*/}}
{{- define "future-kubernetes.nameUser" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.anyUser -}}
initContainers:
  - name: user
    image: {{ include "future-kubernetes.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.imagePullPolicy }}
    command:
      - sh
      - -c
      - |-
        entry="rstudio:x:$(id -u):$(id -g)::/home/rstudio:/bin/bash"
        sed "s|^rstudio:.*|$entry|" /etc/passwd > /user/passwd
    securityContext:
      {{- include "future-kubernetes.containerSecurityContext" $root | nindent 6 }}
    resources:
      {{- toYaml (index . 1) | nindent 6 }}
    volumeMounts:
      - {name: user, mountPath: /user}
{{- end }}
{{- end -}}

{{/* Restrictions of every container. */}}
{{- define "future-kubernetes.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
Environment of both components. RStudio's sessions read USER, which a container without a login does not have.
*/}}
{{- define "future-kubernetes.env" -}}
- name: USER
  value: rstudio
- name: HOME
  value: /home/rstudio
- name: FUTURE_KUBERNETES_RELEASE
  value: {{ include "future-kubernetes.fullname" . }}
- name: FUTURE_KUBERNETES_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end -}}

{{/*
A bash function `answers HOST PORT PATH`, which succeeds if a GET is answered with status 200. It uses only bash, as
not every base image has an HTTP client.
*/}}
{{- define "future-kubernetes.answers" -}}
answers() {
  exec 3<>"/dev/tcp/$1/$2" || return 1
  printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$3" "$1" >&3
  IFS=' ' read -t 5 -r _ status _ <&3
  exec 3>&-
  status=${status%$'\r'}
  [ "$status" = 200 ] || { echo "http://$1:$2$3 answers ${status:-nothing}, not 200"; return 1; }
}
{{- end -}}

{{/* Egress to DNS, by UDP and TCP. */}}
{{- define "future-kubernetes.dnsEgress" -}}
- ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end -}}

{{/*
Egress to public addresses only. Excluded are private networks, the carrier-grade NAT range that some clusters use for
pods, and link-local addresses, where clouds hand out the node's credentials.
*/}}
{{- define "future-kubernetes.internetEgress" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
    - ipBlock:
        cidr: ::/0
        except: ["fc00::/7", "fe80::/10"]
{{- end -}}

{{/*
Egress for a cloud's storage: the server of credentials on the node, and HTTPS. The storage has public addresses that
change, so the second rule cannot be narrower. Call with (list $ INTERNET), where INTERNET is true if the component
reaches all ports of public addresses anyway.
*/}}
{{- define "future-kubernetes.identityEgress" -}}
{{- $root := index . 0 -}}
{{- $server := splitList ":" $root.Values.networkPolicy.identityServer -}}
- ports:
    - {protocol: TCP, port: {{ index $server 1 }}}
  to:
    - ipBlock: {cidr: {{ index $server 0 }}/32}
{{- if not (index . 1) }}
{{ include "future-kubernetes.internetEgress" $root }}
  ports:
    - {protocol: TCP, port: 443}
{{- end }}
{{- end -}}

{{/*
An error where the quota counts a resource that a component does not set. Kubernetes would refuse the component's pods,
and the list of pods would not show why. A request that is not set equals the limit.
*/}}
{{- define "future-kubernetes.checkQuota" -}}
{{- range $counted, $_ := .Values.resourceQuota.hard -}}
{{- $resource := $counted | trimPrefix "requests." | trimPrefix "limits." -}}
{{- if has $resource (list "cpu" "memory" "ephemeral-storage") -}}
{{- range $component := list "scheduler" "worker" -}}
{{- $resources := (get $.Values $component).resources -}}
{{- $stated := hasKey ($resources.limits | default dict) $resource -}}
{{- if not (hasPrefix "limits." $counted) -}}
{{- $stated = or $stated (hasKey ($resources.requests | default dict) $resource) -}}
{{- end -}}
{{- if not $stated -}}
{{- $key := printf "%s.resources.%s.%s" $component (ternary "limits" "requests" (hasPrefix "limits." $counted)) $resource -}}
{{- fail (printf "resourceQuota.hard counts %s, but %s is not set, so that the quota would refuse the %s's pods. Set it, or leave %s out of the quota." $counted $key $component $counted) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
