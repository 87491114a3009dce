#!/usr/bin/env bash
# Makes the Secrets of an installation, with new random passwords and a new sealing key, and prints them as YAML:
#
#   deploy/k8s/secrets.sh dev  | kubectl apply -f -
#   deploy/k8s/secrets.sh prod 'postgres://user:password@host/webhooks?sslmode=verify-full&sslrootcert=/etc/cuitty-webhooks/tls/history/ca.crt' | kubectl apply -f -
#
# Run it once: each run makes everything anew, and applying that replaces the sealing key, which is needed to read every signing
# secret in the log. Keep a copy of it away from the cluster.
set -euo pipefail

overlay=${1:-}
case $overlay in
dev)
    scheme=nats servers=nats
    database=p$(openssl rand -hex 16)
    history="postgres://webhooks:$database@postgres/webhooks"
    ;;
prod)
    scheme=tls servers='nats-0.nats.cuitty-webhooks.svc.cluster.local nats-1.nats.cuitty-webhooks.svc.cluster.local nats-2.nats.cuitty-webhooks.svc.cluster.local'
    database=
    history=${2:?the URL of the database is missing}
    ;;
*)
    echo "usage: $0 dev | prod DATABASE_URL" >&2
    exit 2
    ;;
esac

# name key=value...: a Secret. Values are base64, so that nothing in them means anything to YAML.
secret() {
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: cuitty-webhooks\ndata:\n' "$1"
    shift
    for pair in "$@"; do
        printf '  %s: %s\n' "${pair%%=*}" "$(printf %s "${pair#*=}" | base64 --wrap 0)"
    done
}

passwords=() urls=()
for role in api ingest dispatcher projector operator; do
    # Begins with a letter: nats-server reads a value that looks like a number as one.
    password=p$(openssl rand -hex 24)
    passwords+=("WEBHOOKS_${role^^}_PASSWORD=$password")
    url=
    for server in $servers; do
        url+=${url:+,}$scheme://webhooks-$role:$password@$server:4222
    done
    urls+=("$role-url=$url")
done
for user in WEBHOOKS_SYS MODULE_BUDGETS; do
    passwords+=("${user}_PASSWORD=p$(openssl rand -hex 24)")
done

secret nats-passwords "${passwords[@]}"
secret nats-users "${urls[@]}"
secret sealing "keys=$(date +%Y%m%d):$(openssl rand -base64 32)"
secret history "url=$history" ${database:+"password=$database"}
echo "secrets.sh: these are new passwords and a new sealing key: where an installation has others already, do not apply them" >&2
