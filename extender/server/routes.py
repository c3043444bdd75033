"""HTTP around the pure handlers: sizes, statuses, counting. One line for whatever is refused."""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from extender.admission.review import BadReview, Reviewer
from extender.core.render import metric_labels
from extender.scheduling.verbs import BadArgs, Scheduling
from extender.server.audit import Audit
from extender.server.metrics import Metrics

log = structlog.get_logger(__name__)

LARGEST_REVIEW_BYTES = 8 * 1024 * 1024
"""The API server takes objects up to 3 MiB; a review holds two at the most."""
LARGEST_ARGS_BYTES = 64 * 1024 * 1024
"""With `nodeCacheCapable: false` the scheduler sends whole nodes: 500 of them are 10 MB."""
KEEP_ALIVE_S = 120.0
"""Longer than the 90 s after which Go gives up an idle connection: the client must be the one to
close it, or a request is now and then sent into a connection that is just being closed."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refusal(status: HTTPStatus, why: str) -> web.Response:
    """A plain-text answer of one line."""
    return web.Response(status=status, text=f"{why}\n")


def counted(
    metrics: Metrics, draining: Callable[[], bool]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Middleware: refusals in one line, every request counted, connections let go while draining."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        verb = (
            request.match_info.route.resource.canonical if request.match_info.route.resource else ""
        )
        response: web.StreamResponse
        try:
            response = await handler(request)
        except web.HTTPRequestEntityTooLarge:
            response = refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"body is larger than {request.client_max_size} bytes",
            )
        except web.HTTPMethodNotAllowed as error:
            response = refusal(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.method} is not served here; use {', '.join(sorted(error.allowed_methods))}",
            )
        except web.HTTPNotFound:
            response = refusal(HTTPStatus.NOT_FOUND, "nothing is served at this path")
        except (BadReview, BadArgs) as error:
            response = refusal(HTTPStatus.BAD_REQUEST, str(error))
        except web.HTTPException as error:
            response = refusal(HTTPStatus(error.status), error.reason)
        if draining():
            response.force_close()
        metrics.requests.labels(verb, str(response.status)).inc()
        return response

    return middleware


def webhook_app(
    reviewer: Reviewer, audit: Audit, metrics: Metrics, draining: Callable[[], bool]
) -> web.Application:
    """POST /mutate."""
    latency = metrics.latency.labels("/mutate")

    async def mutate(request: web.Request) -> web.Response:
        body = await request.read()
        begun_s = time.perf_counter()
        reviewed = reviewer.review(body)
        if reviewed.dry_run:
            metrics.dry_runs.inc()
        else:
            labels = metric_labels(reviewed.decision)
            metrics.decisions.labels(**labels).inc()
        audit.line(reviewed.audit)
        latency.observe(time.perf_counter() - begun_s)
        return web.Response(body=reviewed.answer, content_type="application/json")

    app = web.Application(
        client_max_size=LARGEST_REVIEW_BYTES, middlewares=[counted(metrics, draining)]
    )
    app.router.add_post("/mutate", mutate)
    return app


def extender_app(
    scheduling: Scheduling, metrics: Metrics, draining: Callable[[], bool]
) -> web.Application:
    """POST /scheduler/filter and /scheduler/prioritize."""
    app = web.Application(
        client_max_size=LARGEST_ARGS_BYTES, middlewares=[counted(metrics, draining)]
    )
    for path, verb in (
        ("/scheduler/filter", scheduling.filter),
        ("/scheduler/prioritize", scheduling.prioritize),
    ):
        app.router.add_post(path, _verb(verb, metrics, path))
    return app


def _verb(verb: Callable[[bytes], bytes], metrics: Metrics, path: str) -> Handler:
    latency = metrics.latency.labels(path)

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        begun_s = time.perf_counter()
        answer = verb(body)
        latency.observe(time.perf_counter() - begun_s)
        return web.Response(body=answer, content_type="application/json")

    return handle
