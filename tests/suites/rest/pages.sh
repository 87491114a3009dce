#!/usr/bin/env bash
# Every call of the two pages that describe the REST routes, with curl; each answer is checked. Prints a line per call.
#
# URL: where the service is; KEY: an API key for everything; PROJECT: a project; RECEIVER: what answers with 200.
set -euo pipefail

module=$URL/api/webhooks
manage=$URL/manage/v1/webhooks
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# call STATUS METHOD URL [BODY]: makes a call and leaves the answer in $answer.
call() {
	local expected=$1 method=$2 url=$3 body=${4-} status
	status=$(curl --silent --show-error --max-time 30 --output "$answer" --write-out '%{http_code}' \
		--request "$method" --header "authorization: Bearer $KEY" \
		${body:+--header 'content-type: application/json' --data "$body"} "$url")
	if [ "$status" != "$expected" ]; then
		echo "$method $url: $status, not $expected: $(cat "$answer")" >&2
		exit 1
	fi
	echo "$method ${url#"$URL"} $status"
}

# is EXPRESSION: checks something of the last answer, which is `a`.
is() {
	python3 -c 'import json, sys; a = json.load(open(sys.argv[1])); assert eval(sys.argv[2]), (sys.argv[2], a)' "$answer" "$1"
}

# get EXPRESSION: prints something of the last answer.
get() {
	python3 -c 'import json, sys; a = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$answer" "$1"
}

# settled ID: waits until the delivery has ended. Prints nothing.
settled() {
	for _ in $(seq 100); do
		call 200 GET "$manage/deliveries/$1" >/dev/null
		if is 'a["status"] != "pending"' 2>/dev/null; then
			return
		fi
		sleep 0.1
	done
	echo "delivery $1 does not end: $(cat "$answer")" >&2
	exit 1
}

# The management page.
call 201 POST "$manage/endpoints" '{
	"project_id": "'"$PROJECT"'",
	"url": "'"$RECEIVER"'",
	"event_types": ["budget.threshold_reached", "routing_config.updated"],
	"description": "Production webhook"
}'
is 'a["signing_secret"].startswith("whsec_") and a["active"] is True'
endpoint=$(get 'a["id"]')

call 200 GET "$manage/endpoints?project_id=$PROJECT"
is '[e["id"] for e in a["data"]] == ["'"$endpoint"'"] and a["next_cursor"] is None'
is '"signing_secret" not in a["data"][0]'

call 200 GET "$manage/endpoints/$endpoint"
is 'a["description"] == "Production webhook" and a["event_types"] == ["budget.threshold_reached", "routing_config.updated"]'

call 200 PATCH "$manage/endpoints/$endpoint" '{
	"url": "'"$RECEIVER"'", "event_types": ["budget.*"], "description": "Changed", "active": true
}'
is 'a["event_types"] == ["budget.*"] and a["description"] == "Changed" and a["active"] is True'

call 200 POST "$manage/endpoints/$endpoint/rotate-secret"
is 'a["signing_secret"].startswith("whsec_") and a["secret_id"].startswith("sec_") and a["previous_expires_at"].endswith("Z")'

call 202 POST "$manage/endpoints/$endpoint/test" '{"event_type": "budget.threshold_reached"}'
is 'a["origin"] == "test" and a["endpoint_id"] == "'"$endpoint"'"'
settled "$(get 'a["id"]')"

# The module page, in between: an event to list.
call 202 POST "$module/deliver" '{
	"project_id": "'"$PROJECT"'", "event_type": "budget.threshold_reached", "payload": {"threshold": 0.8}
}'
is 'a["duplicate"] is False and a["log_sequence"] > 0 and len(a["deliveries"]) == 1'
delivery=$(get 'a["deliveries"][0]["id"]')
settled "$delivery"

call 200 GET "$manage/deliveries?endpoint_id=$endpoint&status=delivered&event_type=budget.threshold_reached&limit=1"
is '[d["id"] for d in a["data"]] == ["'"$delivery"'"] and a["next_cursor"]'
cursor=$(get 'a["next_cursor"]')

call 200 GET "$manage/deliveries?endpoint_id=$endpoint&status=delivered&limit=1&cursor=$cursor"
is 'len(a["data"]) == 1 and a["data"][0]["origin"] == "test" and a["next_cursor"] is None'

call 200 GET "$manage/deliveries/$delivery"
is 'a["payload"] == {"threshold": 0.8} and a["response_status"] == 200 and a["response_body"] == ""'
is '[attempt["outcome"] for attempt in a["attempts"]] == ["succeeded"]'

call 202 POST "$manage/deliveries/$delivery/replay"
is 'a["replay_of"] == "'"$delivery"'" and a["origin"] == "replay"'
settled "$(get 'a["id"]')"
is 'a["payload"] == {"threshold": 0.8} and a["status"] == "delivered"'

call 200 GET "$manage/event-types?project_id=$PROJECT"
is '[(t["name"], t["description"]) for t in a["data"]] == [("budget.threshold_reached", "A budget has reached its threshold")]'

# The module page.
call 200 GET "$module/status"
is 'a["status"] == "ok" and a["components"]["log"] == "ok"'

call 200 GET "$module/endpoints?project_id=$PROJECT"
is '[e["id"] for e in a["data"]] == ["'"$endpoint"'"]'

call 200 POST "$module/endpoints/$endpoint/rotate"
is 'a["signing_secret"].startswith("whsec_")'

# Deleting is soft.
call 204 DELETE "$manage/endpoints/$endpoint"
call 404 GET "$manage/endpoints/$endpoint"
is 'a["error"]["code"] == "endpoint_not_found"'
