"""A collector of traces: OTLP over gRPC, its messages decoded by hand.

collector.py ADDRESS: writes each span that comes as a line of JSON.
"""

import asyncio
import json
import struct
import sys

import grpc


def fields(message):
    """Number and value of each field; a value is an int, or bytes."""
    at = 0

    def varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        elif kind == 1:
            (value,) = struct.unpack_from("<Q", message, at)
            at += 8
        elif kind == 2:
            length = varint()
            value = message[at : at + length]
            assert len(value) == length, "a field is cut off"
            at += length
        elif kind == 5:
            (value,) = struct.unpack_from("<I", message, at)
            at += 4
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> 3, value


def all_of(message, number):
    return [value for field, value in fields(message) if field == number]


def attributes(pairs):
    named = {}
    for pair in pairs:
        pair = dict(fields(pair))
        any_value = dict(fields(pair[2]))
        named[pair[1].decode()] = any_value[1].decode() if 1 in any_value else any_value[3]
    return named


def spans(request):
    for resource_spans in all_of(request, 1):
        (resource,) = all_of(resource_spans, 1)
        resource = attributes(all_of(resource, 1))
        for scope_spans in all_of(resource_spans, 2):
            for span in all_of(scope_spans, 2):
                one = dict(fields(span))
                yield {
                    "resource": resource,
                    "trace": one[1].hex(),
                    "span": one[2].hex(),
                    "state": one.get(3, b"").decode(),
                    "parent": one.get(4, b"").hex(),
                    "name": one[5].decode(),
                    "kind": one[6],
                    "began": one[7],
                    "ended": one[8],
                    "attributes": attributes(all_of(span, 9)),
                    "status": dict(fields(one.get(15, b""))).get(3, 0),
                    "flags": one[16],
                }


async def export(request, context):
    for span in spans(request):
        print(json.dumps(span), flush=True)
    return b""


async def main(address):
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    server.add_insecure_port(address)
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()


asyncio.run(main(sys.argv[1]))
