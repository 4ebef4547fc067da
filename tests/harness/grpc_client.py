"""A gRPC client that checks one thing: grpc_client.py SCENARIO JSON.

The JSON says where the proxy is (`to`), the name to ask for (`name`), the CA's file (`ca`; without it there
is no TLS), and where the servers are, to be asked past the proxy
(`servers`, with `server_ca` and `server_name`).
"""

import asyncio
import json
import os
import sys
import time

import grpc

LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
PATIENCE = 60


class Caller:
    def __init__(self, to, ca, name):
        if ca:
            options = [("grpc.ssl_target_name_override", name)] + LARGE
            root = open(ca, "rb").read()
            self.channel = grpc.aio.secure_channel(to, grpc.ssl_channel_credentials(root), options)
        else:
            options = ([("grpc.default_authority", name)] if name else []) + LARGE
            self.channel = grpc.aio.insecure_channel(to, options)
        call = lambda kind, name: getattr(self.channel, kind)("/test.Echo/" + name)
        self.unary = call("unary_unary", "unary")
        self.fail = call("unary_unary", "fail")
        self.split = call("unary_stream", "split")
        self.join = call("stream_unary", "join")
        self.talk = call("stream_stream", "talk")
        self.wait = call("unary_unary", "wait")
        self.counts = call("unary_unary", "counts")
        self.end = call("unary_unary", "end")
        self.missing = call("unary_unary", "missing")


async def eventually(what, look):
    until = time.monotonic() + PATIENCE
    while not await look():
        assert time.monotonic() < until, what
        await asyncio.sleep(0.02)


async def status(call):
    """The status a call ends with, `None` for success."""
    try:
        await call
        return None
    except grpc.aio.AioRpcError as error:
        return error


async def kinds(proxy, servers):
    """The four kinds of calls; the server sees each message before the next is sent."""
    assert await proxy.unary(b"hello", timeout=PATIENCE) == b"hello"
    assert await proxy.unary(b"", timeout=PATIENCE) == b""
    messages = [message async for message in proxy.split(b"[100, 10]", timeout=PATIENCE)]
    assert messages == [b"%08d.." % number for number in range(100)], messages
    assert [message async for message in proxy.split(b"[0, 0]", timeout=PATIENCE)] == []

    async def parts():
        for number in range(100):
            yield b"%d," % number

    assert await proxy.join(parts(), timeout=PATIENCE) == b"".join(b"%d," % it for it in range(100))
    talk = proxy.talk(timeout=PATIENCE)
    for number in range(50):
        await talk.write(b"%d" % number)
        assert await talk.read() == b"re:%d" % number
    await talk.done_writing()
    assert await talk.read() == grpc.aio.EOF
    assert await talk.code() == grpc.StatusCode.OK
    # The server may speak last, too: both ends stay open until both are done.
    talks = [proxy.talk(timeout=PATIENCE) for _ in range(50)]
    for round in range(3):
        await asyncio.gather(*(talk.write(b"x") for talk in talks))
        assert set(await asyncio.gather(*(talk.read() for talk in talks))) == {b"re:x"}
    await asyncio.gather(*(talk.done_writing() for talk in talks))
    assert set(await asyncio.gather(*(talk.code() for talk in talks))) == {grpc.StatusCode.OK}


async def errors(proxy, servers):
    """A status without a message, and metadata both ways."""
    for code in ["NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "INTERNAL"]:
        details = code + ": 50 % of \u00e4 \u2603"
        error = await status(proxy.fail(json.dumps([code, details]).encode(), timeout=PATIENCE))
        assert (error.code().name, error.details()) == (code, details), error
    error = await status(proxy.missing(b"", timeout=PATIENCE))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    every = bytes(range(256))
    call = proxy.unary(b"x", metadata=[("x-user", "me"), ("x-user-bin", every)], timeout=PATIENCE)
    head = dict(await call.initial_metadata())
    assert (head["x-head"], head["x-head-bin"]) == ("me", every), head
    assert await call == b"x"
    tail = dict(await call.trailing_metadata())
    assert (tail["x-tail"], tail["x-tail-bin"]) == ("me", every), tail


async def large(proxy, servers):
    """Messages of megabytes, one by one and many at once."""
    megabyte = bytes(range(256)) * 4096
    assert await proxy.unary(megabyte, timeout=PATIENCE) == megabyte
    lengths = [len(it) async for it in proxy.split(b"[5, 1000000]", timeout=PATIENCE)]
    assert lengths == [1000000] * 5, lengths

    async def parts():
        for _ in range(5):
            yield megabyte

    assert await proxy.join(parts(), timeout=PATIENCE) == megabyte * 5
    replies = await asyncio.gather(*(proxy.unary(megabyte, timeout=PATIENCE) for _ in range(10)))
    assert set(replies) == {megabyte}


async def counts(servers):
    all = [json.loads(await server.counts(b"")) for server in servers]
    return {key: sum(counts[key] for counts in all) for key in all[0]}


async def deadlines(proxy, servers):
    """A call that takes too long ends at both ends."""
    assert await proxy.unary(b"x", timeout=PATIENCE) == b"x"
    calls = [proxy.wait(b"", timeout=5) for _ in range(20)]
    ended = await asyncio.gather(*(status(call) for call in calls))
    assert {error.code() for error in ended} == {grpc.StatusCode.DEADLINE_EXCEEDED}, ended

    async def cancelled():
        noted = await counts(servers)
        return (noted["cancelled"], noted["waiting"]) == (20, 0)

    await eventually("the server hears of deadlines", cancelled)
    talk = proxy.talk(timeout=5)
    await talk.write(b"x")
    assert await talk.read() == b"re:x"
    assert (await status(talk.read())).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await proxy.unary(b"x", timeout=PATIENCE) == b"x"


async def cancels(proxy, servers):
    """Two thousand calls that are given up disturb no other on the same connection."""
    witness = proxy.talk()
    await witness.write(b"first")
    assert await witness.read() == b"re:first"
    for round in range(1, 41):
        calls = [proxy.wait(b"") for _ in range(50)]

        async def arrived():
            return (await counts(servers))["waiting"] == 50

        await eventually(f"round {round} arrives", arrived)
        for call in calls:
            call.cancel()

        async def cancelled():
            return (await counts(servers))["cancelled"] == 50 * round

        await eventually(f"round {round} is cancelled", cancelled)
        await witness.write(b"%d" % round)
        assert await witness.read() == b"re:%d" % round
    await witness.done_writing()
    assert await witness.code() == grpc.StatusCode.OK
    # Each of the two workers has a connection, and few more were made.
    peers = (await counts(servers))["peers"]
    assert peers <= 4, f"{peers} connections"


async def stops(proxy, servers):
    """A server that stops gracefully fails no call but those in flight; the other one serves on."""
    first, second = servers
    ended = []
    stop = False

    async def load(number):
        while not stop:
            error = await status(proxy.unary(b"%d" % number, timeout=PATIENCE))
            ended.append(error)

    loads = [asyncio.ensure_future(load(number)) for number in range(8)]

    async def loaded(count):
        begin = len(ended)

        async def look():
            return len(ended) >= begin + count

        await eventually("load", look)

    # A talk with each: what is under way goes on to its end.
    talks = [proxy.talk(timeout=PATIENCE) for _ in range(4)]
    for talk in talks:
        await talk.write(b"x")
        assert await talk.read() == b"re:x"
    await loaded(300)
    await first.end(b"")
    for _ in range(5):
        for talk in talks:
            await talk.write(b"y")
            assert await talk.read() == b"re:y"
        await loaded(50)
    for talk in talks:
        await talk.done_writing()
        assert await talk.code() == grpc.StatusCode.OK
    begin = len(ended)
    await loaded(300)
    late = [error for error in ended[begin:] if error]
    stop = True
    await asyncio.gather(*loads)
    failed = [error for error in ended if error]
    print(len(failed), "of", len(ended), "failed", [(it.code().name, it.details()) for it in failed])
    # CANCELLED is what this server itself answers to a call that comes while it stops.
    stopping = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert {error.code() for error in failed} <= stopping, failed
    assert len(failed) <= 16, failed
    assert len(late) <= 8, late


async def survives(proxy, servers, until):
    """Goes on calling until the file `until` is there; after that every call succeeds, soon."""
    failed = []
    count = 0
    while not os.path.exists(until):
        error = await status(proxy.unary(b"x", timeout=PATIENCE))
        count += 1
        if count == 1:
            print("calling", flush=True)
        if error:
            failed.append(error)
            await asyncio.sleep(0.01)
    print(count, "calls,", len(failed), "failed")
    # The one whose answer had begun when the server was killed is cut, as any proxy would.
    cut = [error for error in failed if error.code() == grpc.StatusCode.INTERNAL]
    assert len(cut) <= 1 and all("RST_STREAM" in error.details() for error in cut), failed
    codes = {error.code() for error in failed if error not in cut}
    assert codes <= {grpc.StatusCode.UNAVAILABLE}, failed

    async def well():
        return not await status(proxy.unary(b"x", timeout=PATIENCE))

    await eventually("a call", well)
    for _ in range(100):
        assert await proxy.unary(b"x", timeout=PATIENCE) == b"x"


async def main(scenarios, where):
    for scenario in scenarios.split(","):
        print(scenario, flush=True)
        proxy = Caller(where["to"], where.get("ca"), where["name"])
        servers = [Caller(it, where.get("server_ca"), where.get("server_name")) for it in where["servers"]]
        more = [where["until"]] if "until" in where else []
        await asyncio.wait_for(globals()[scenario](proxy, servers, *more), 180)
        await proxy.channel.close()
        for server in servers:
            await server.channel.close()


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
