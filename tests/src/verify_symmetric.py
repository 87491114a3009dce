"""Verifies requests with the published library of Standard Webhooks.

Each line of the input is a JSON object: the secrets that a receiver knows, the headers and the body as they arrived. Each
line of the output says whether the library accepts the request with any of the secrets.
"""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def accepts(secret, request):
    try:
        Webhook(secret).verify(request["body"], request["headers"])
    except WebhookVerificationError:
        return False
    return True


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(any(accepts(secret, request) for secret in request["secrets"])))
