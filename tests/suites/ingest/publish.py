"""Publishes events with nats-py: COUNT of them, each with an id, and then every second one again.

Arguments: URL of nats-server, subject, count. Prints as JSON how many publications nats-server stored, and how many it knew.
"""

import asyncio
import json
import sys

import nats

URL, SUBJECT, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
AT_ONCE = 500


async def main():
    connection = await nats.connect(URL)
    stream = connection.jetstream()
    stored = known = 0

    async def publish(number):
        payload = json.dumps({"number": number}).encode()
        return await stream.publish(SUBJECT, payload, headers={"Nats-Msg-Id": f"event-{number}"}, timeout=30)

    numbers = list(range(COUNT)) + list(range(0, COUNT, 2))
    for start in range(0, len(numbers), AT_ONCE):
        acks = await asyncio.gather(*map(publish, numbers[start : start + AT_ONCE]))
        known += sum(bool(ack.duplicate) for ack in acks)
        stored += sum(not ack.duplicate for ack in acks)
    await connection.drain()
    print(json.dumps({"stored": stored, "known": known}))


asyncio.run(main())
