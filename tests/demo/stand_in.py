"""A server with the flags and ports of `migfit serve` that decides nothing. Its first word is a mode:

ok          allows every pod, writes an audit line for it
mute        allows every pod, writes no audit line
mortal      ends when the first review comes
unready     never gets ready
crash       prints two lines on stderr and ends
"""

import argparse
import asyncio
import json
import os
import ssl
import sys
from typing import Any

from aiohttp import web


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(mode: str, flags: argparse.Namespace) -> None:
    async def mutate(request: web.Request) -> web.Response:
        review = (await request.json())["request"]
        if mode == "mortal":
            os._exit(7)
        if mode == "ok":
            line = {"event": "admission", "id": review["uid"], "action": "left", "reason": "Fake"}
            write("this is no JSON")
            write(json.dumps({"event": "unmet", "id": review["uid"]}))
            write(json.dumps({**line, "message": f"saw {review.get('name', 'a new one')}"}))
        return web.json_response(
            {
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": {"uid": review["uid"], "allowed": True},
            }
        )

    async def passing(request: web.Request) -> web.Response:
        return web.json_response({"NodeNames": (await request.json())["NodeNames"]})

    async def scored(_: web.Request) -> web.Response:
        return web.json_response([])

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=503 if mode == "unready" else 200)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(flags.tls_cert, flags.tls_key)
    parts: list[tuple[int, list[web.RouteDef], ssl.SSLContext | None]] = [
        (flags.webhook_port, [web.post("/mutate", mutate)], context),
        (
            flags.extender_port,
            [web.post("/scheduler/filter", passing), web.post("/scheduler/prioritize", scored)],
            None,
        ),
        (flags.ops_port, [web.get("/readyz", ready)], None),
    ]
    for port, routes, tls in parts:
        app = web.Application()
        app.router.add_routes(routes)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, flags.bind, port, ssl_context=tls).start()
    await asyncio.Event().wait()


def main() -> Any:
    mode, *rest = sys.argv[1:]
    if mode == "crash":
        sys.stderr.write("a first line\n\x1b[31mno way to the cluster\x1b[0m\n")
        sys.exit(3)
    parser = argparse.ArgumentParser()
    for name in ("config", "kubeconfig", "tls-cert", "tls-key", "bind"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("webhook-port", "extender-port", "ops-port"):
        parser.add_argument(f"--{name}", required=True, type=int)
    asyncio.run(serve(mode, parser.parse_args(rest)))


if __name__ == "__main__":
    main()
