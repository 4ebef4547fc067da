"""A gRPC server of one service, bytes in and bytes out.

grpc_server.py ADDRESS [KEY CERTIFICATE]: serves until it is asked to stop, then lets calls end.
"""

import asyncio
import json
import sys

import grpc


class Echo:
    def __init__(self):
        self.waiting = 0
        self.cancelled = 0
        self.peers = set()
        self.stop = asyncio.Event()

    async def unary(self, request, context):
        """The request again; metadata `x-user` and `x-user-bin` come back before and after it."""
        said = {key: value for key, value in context.invocation_metadata()}
        self.peers.add(context.peer())
        await context.send_initial_metadata([("x-head", said.get("x-user", "")), ("x-head-bin", said.get("x-user-bin", b""))])
        context.set_trailing_metadata([("x-tail", said.get("x-user", "")), ("x-tail-bin", said.get("x-user-bin", b""))])
        return request

    async def fail(self, request, context):
        """No message, only a status: the one in the request."""
        code, details = json.loads(request)
        await context.abort(getattr(grpc.StatusCode, code), details)

    async def split(self, request, context):
        """As many messages as the request says, each as long as it says."""
        count, length = json.loads(request)
        for number in range(count):
            yield (b"%08d" % number).ljust(length, b".")

    async def join(self, requests, context):
        """All messages in one."""
        return b"".join([request async for request in requests])

    async def talk(self, requests, context):
        """An answer to each message when it comes."""
        self.peers.add(context.peer())
        async for request in requests:
            yield b"re:" + request

    async def wait(self, request, context):
        """Never answers; notes whether the caller gave up."""
        self.peers.add(context.peer())
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    async def counts(self, request, context):
        """What was noted so far."""
        counts = {"waiting": self.waiting, "cancelled": self.cancelled, "peers": len(self.peers)}
        return json.dumps(counts).encode()

    async def end(self, request, context):
        """Stops the server when calls under way are over: it sends GOAWAY at once."""
        self.stop.set()
        return b""


async def main(address, pair):
    echo = Echo()
    kinds = {
        "unary": grpc.unary_unary_rpc_method_handler,
        "fail": grpc.unary_unary_rpc_method_handler,
        "split": grpc.unary_stream_rpc_method_handler,
        "join": grpc.stream_unary_rpc_method_handler,
        "talk": grpc.stream_stream_rpc_method_handler,
        "wait": grpc.unary_unary_rpc_method_handler,
        "counts": grpc.unary_unary_rpc_method_handler,
        "end": grpc.unary_unary_rpc_method_handler,
    }
    methods = {name: kind(getattr(echo, name)) for name, kind in kinds.items()}
    # One process for each port, so that a port in use is told.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", methods)])
    if pair:
        key, certificate = (open(path, "rb").read() for path in pair)
        server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
    else:
        server.add_insecure_port(address)
    await server.start()
    print("serving", flush=True)
    await echo.stop.wait()
    await server.stop(60)


asyncio.run(main(sys.argv[1], sys.argv[2:]))
