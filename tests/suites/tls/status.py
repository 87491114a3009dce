"""Asks for the status with grpcio over TLS.

Arguments: host:port, authorities, and for a client with a certificate that and its key. Prints the gRPC code as JSON.
"""

import json
import sys

import grpc

TARGET, *FILES = sys.argv[1:]


def read(path):
    with open(path, "rb") as file:
        return file.read()


ca, cert, key = [*map(read, FILES), None, None][:3]
credentials = grpc.ssl_channel_credentials(ca, key, cert)
channel = grpc.secure_channel(TARGET, credentials, options=[("grpc.enable_retries", 0)])
call = channel.unary_unary("/cuitty.webhooks.v1.StatusService/GetStatus", bytes, bytes)
try:
    call(b"", timeout=10)
    print(json.dumps("OK"))
except grpc.RpcError as error:
    print(json.dumps(error.code().name))
