#!/usr/bin/env bash
# Makes the secrets of compose.yaml, each in a file of deploy/compose/secrets, unless they are there: new random passwords and a
# new sealing key. The sealing key is needed to read every signing secret in the log: keep a copy of it.
set -euo pipefail
cd "$(dirname "$0")"
if [ -e secrets ]; then
    echo "deploy/compose/secrets is there already" >&2
    exit 0
fi
mkdir -m 700 secrets.new
for role in api ingest dispatcher projector operator; do
    # Begins with a letter: nats-server reads a value that looks like a number as one.
    password=p$(openssl rand -hex 24)
    printf 'WEBHOOKS_%s_PASSWORD=%s\n' "${role^^}" "$password" >> secrets.new/nats.env
    printf 'nats://webhooks-%s:%s@nats:4222' "$role" "$password" > "secrets.new/nats-$role"
done
for user in WEBHOOKS_SYS MODULE_BUDGETS; do
    printf '%s_PASSWORD=p%s\n' "$user" "$(openssl rand -hex 24)" >> secrets.new/nats.env
done
openssl rand -hex 16 > secrets.new/database
printf 'postgres://webhooks:%s@postgres/webhooks' "$(cat secrets.new/database)" > secrets.new/history
printf '%s:%s' "$(date +%Y%m%d)" "$(openssl rand -base64 32)" > secrets.new/sealing
openssl rand -hex 16 > secrets.new/grafana
# The containers run as users that this machine does not have; the directory keeps everybody else out.
chmod 644 secrets.new/*
mv secrets.new secrets
