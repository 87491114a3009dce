"""Drives the service as a program in another language would: grpcio, with the descriptors that the server tells of.

Arguments: host:port, API key, URL of a receiver, project, items to stream. Prints what it found as JSON.
"""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TARGET, KEY, RECEIVER, PROJECT, COUNT = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
PACKAGE = "cuitty.webhooks.v1"


class Call(grpc.ClientCallDetails):
    def __init__(self, details):
        self.method = details.method
        self.timeout = details.timeout
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression
        self.metadata = [*(details.metadata or []), ("authorization", f"Bearer {KEY}")]


class WithKey(
    grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor, grpc.UnaryStreamClientInterceptor
):
    def intercept_unary_unary(self, continuation, details, request):
        return continuation(Call(details), request)

    def intercept_unary_stream(self, continuation, details, request):
        return continuation(Call(details), request)

    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(Call(details), requests)


channel = grpc.intercept_channel(grpc.insecure_channel(TARGET), WithKey())
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def new(name, **fields):
    return GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))(**fields)


def stub(service, name):
    method = pool.FindServiceByName(f"{PACKAGE}.{service}").FindMethodByName(name)
    kinds = {(False, False): channel.unary_unary, (True, True): channel.stream_stream}
    kind = kinds[method.client_streaming, method.server_streaming]
    return kind(
        f"/{PACKAGE}.{service}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )


def call(service, name, request):
    return stub(service, name)(request, timeout=30)


created = call("EndpointService", "CreateEndpoint", new("CreateEndpointRequest", project_id=PROJECT, url=RECEIVER))
endpoint = created.endpoint.id

item = new("DeliverRequest", project_id=PROJECT, event_type="order.paid", payload=b'{"number":-1}')
delivered = call("MessageService", "Deliver", item)


def items():
    for tag in range(COUNT):
        bad = tag % 100 == 99
        payload = b"{" if bad else json.dumps({"number": tag}).encode()
        item = new("DeliverRequest", project_id=PROJECT, event_type="order.paid", payload=payload)
        yield new("DeliverStreamRequest", tag=tag, item=item)


accepted, rejected = {}, {}
for response in stub("MessageService", "DeliverStream")(items(), timeout=300):
    result = response.result
    if result.HasField("accepted"):
        accepted[response.tag] = result.accepted
    else:
        rejected[response.tag] = [result.rejected.reason, result.rejected.field]

last = max(answer.log_sequence for answer in accepted.values())
first_id = delivered.deliveries[0].id
detail = call("DeliveryService", "GetDelivery", new("GetDeliveryRequest", delivery_id=first_id, min_log_sequence=last))

listed, cursor = set(), ""
while True:
    page = new("PageRequest", limit=200, cursor=cursor)
    request = new("ListDeliveriesRequest", project_id=PROJECT, endpoint_id=endpoint, page=page, min_log_sequence=last)
    answer = call("DeliveryService", "ListDeliveries", request)
    listed.update(delivery.id for delivery in answer.deliveries)
    cursor = answer.next_cursor
    if not cursor:
        break

replayed = call("DeliveryService", "ReplayDelivery", new("ReplayDeliveryRequest", delivery_id=first_id))

try:
    call("DeliveryService", "GetDelivery", new("GetDeliveryRequest", delivery_id="dlv_1"))
    refused = None
except grpc.RpcError as error:
    refused = error.code().name

ids = [answer.deliveries[0].id for answer in accepted.values()]
print(
    json.dumps(
        {
            "accepted": len(accepted),
            "distinct": len(set(ids)),
            "rejected": rejected,
            "payload": detail.payload.decode(),
            "all_listed": listed >= {*ids, first_id},
            "listed": len(listed),
            "replay_of": replayed.replay_of == first_id,
            "replay": replayed.id,
            "refused": refused,
        }
    )
)
