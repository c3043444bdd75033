"""HTTP around the pure handlers: sizes, statuses, counting. One line for whatever is refused."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import NamedTuple

import structlog
from aiohttp import web

from extender.admission.envelope import BadReview
from extender.admission.review import Reviewer
from extender.core.render import metric_labels
from extender.scheduling.verbs import BadArgs, Scheduling
from extender.server.at_once import Answered, AtOnce
from extender.server.audit import Audit
from extender.server.bodies import Bodies
from extender.server.listen import refusal
from extender.server.metrics import Metrics
from extender.server.traces import A, Traces

log = structlog.get_logger(__name__)

LARGEST_REVIEW_BYTES = 8 * 1024 * 1024
"""The API server takes objects up to 3 MiB; a review holds two at the most."""
LARGEST_ARGS_BYTES = 64 * 1024 * 1024
"""With `nodeCacheCapable: false` the scheduler sends whole nodes: 500 of them are 10 MB."""
MOST_REVIEWS_BYTES = 64 * 1024 * 1024
"""Of reviews that come at the same time: 16,000 pods of 4 KB, or eight of the largest. With these,
copied once, and a large cluster the process stays below the 512 MB it is given."""
MOST_ARGS_BYTES = 128 * 1024 * 1024
"""Of what a scheduler asks; it asks little at the same time."""

DRY_RUN = web.RequestKey("dry-run", bool)
CATCH_UP_S = 0.05
"""How long a pod that would be turned down everywhere waits for the watch to catch up."""
MOST_IN_VAIN, IN_VAIN_S = 20, 20.0
"""How many such waits may change nothing in how long a time; then pods are turned down at once. While a
whole pool is cut anew, kube-scheduler, which asks about one pod at a time, loses no more than a
twentieth of its time to us; and in a quiet cluster, where nothing else would soon wake the pod, none of
its pods goes without."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def counted(
    metrics: Metrics, draining: Callable[[], bool]
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Middleware: refusals in one line, every request counted, connections let go while draining.

    Args:
        metrics: what counts; dry runs have a counter of their own and no other.
        draining: whether clients should go elsewhere.
    """
    requests = cache(metrics.requests.labels)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        response = await _answered(request, handler)
        if draining():
            response.force_close()
        if DRY_RUN not in request:
            verb = resource.canonical if resource is not None else ""
            requests(verb, str(response.status)).inc()
        return response

    return middleware


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.content.is_eof() and (request.content_length or 0) > request.client_max_size:
        return _too_large(request)
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return _too_large(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = refusal(
            HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not served here; use {allowed}"
        )
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return refusal(HTTPStatus.NOT_FOUND, "nothing is served at this path")
    except (BadReview, BadArgs) as error:
        return refusal(HTTPStatus.BAD_REQUEST, str(error))
    except web.HTTPException as error:
        return refusal(HTTPStatus(error.status), error.reason)
    except (web.RequestPayloadError, ConnectionError):
        return refusal(HTTPStatus.BAD_REQUEST, "the body broke off")
    except Exception:  # a process on the request path dies of no input
        log.exception("request failed", path=request.path)
        return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the log of migfit")


def _too_large(request: web.Request) -> web.Response:
    return refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body is larger than {request.client_max_size} bytes"
    )


class Port(NamedTuple):
    """What one port serves."""

    app: web.Application
    at_once: AtOnce


def webhook_port(
    reviewer: Reviewer,
    audit: Audit,
    metrics: Metrics,
    draining: Callable[[], bool],
    traces: Traces | None = None,
) -> Port:
    """POST /mutate."""
    latency = metrics.latency.labels("/mutate")
    decisions = cache(metrics.decisions.labels)
    bodies = Bodies(MOST_REVIEWS_BYTES)

    def reviewed(body: bytes) -> Answered:
        begun_s = time.perf_counter()
        found = reviewer.review(body)
        audit.line(found.audit, len(body))
        if found.dry_run:
            metrics.dry_runs.inc()
        else:
            decisions(**metric_labels(found.decision)).inc()
            latency.observe(time.perf_counter() - begun_s)
        return Answered(found.answer, found.dry_run, found.decision)

    answer = _traced(traces, "/mutate", reviewed)

    async def mutate(request: web.Request) -> web.Response:
        async with bodies.whole(request) as body:
            answered = answer(body)
        if answered.dry_run:
            request[DRY_RUN] = True
        return _json(answered)

    app = web.Application(
        client_max_size=LARGEST_REVIEW_BYTES, middlewares=[counted(metrics, draining)]
    )
    app.router.add_post("/mutate", mutate)
    return Port(app, at_once({"/mutate": answer}, metrics, draining))


class NodeFilter:
    """The verb `filter`. A pod that would be turned down everywhere is given a second look.

    The event that woke the pod may not have reached us yet, and after our "no" only another event
    would wake it again: so the watch gets some time to catch up.

    Args:
        scheduling: the verbs.
        observe: told how long each answer took to make, in seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scheduling: Scheduling,
        observe: Callable[[float], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._scheduling, self._observe, self._clock = scheduling, observe, clock
        self._in_vain_s: deque[float] = deque([-math.inf] * MOST_IN_VAIN, MOST_IN_VAIN)
        """When second looks last changed nothing, the oldest first."""

    def at_once(self, body: bytes) -> Answered | None:
        """The answer, or None: a second look is due."""
        begun_s = self._clock()
        found = self._scheduling.filtered(body)
        if found.leaves_no_node and begun_s - self._in_vain_s[0] >= IN_VAIN_S:
            return None
        self._observe(self._clock() - begun_s)
        return Answered(found.answer)

    async def filtered(self, body: bytes) -> Answered:
        """The answer, after a second look if one is due."""
        answered = self.at_once(body)
        if answered is None:
            await asyncio.sleep(CATCH_UP_S)
            begun_s = self._clock()
            found = self._scheduling.filtered(body)
            if found.leaves_no_node:
                self._in_vain_s.append(self._clock())
            self._observe(self._clock() - begun_s)
            answered = Answered(found.answer)
        return answered


def extender_port(
    scheduling: Scheduling,
    metrics: Metrics,
    draining: Callable[[], bool],
    traces: Traces | None = None,
) -> Port:
    """POST /scheduler/filter and /scheduler/prioritize."""
    app = web.Application(
        client_max_size=LARGEST_ARGS_BYTES, middlewares=[counted(metrics, draining)]
    )
    bodies = Bodies(MOST_ARGS_BYTES)
    nodes = NodeFilter(scheduling, metrics.latency.labels("/scheduler/filter").observe)
    prioritized_s = metrics.latency.labels("/scheduler/prioritize")

    def prioritized(body: bytes) -> Answered:
        begun_s = time.perf_counter()
        answer = scheduling.prioritize(body)
        prioritized_s.observe(time.perf_counter() - begun_s)
        return Answered(answer)

    look = _traced(traces, "/scheduler/filter", nodes.at_once)
    rank = _traced(traces, "/scheduler/prioritize", prioritized)
    filtered: Callable[[bytes], Awaitable[Answered]] = nodes.filtered
    if traces is not None:
        filtered = traces.awaited("/scheduler/filter", nodes.filtered)

    async def filter_nodes(request: web.Request) -> web.Response:
        async with bodies.whole(request) as body:
            return _json(await filtered(body))

    async def prioritize(request: web.Request) -> web.Response:
        async with bodies.whole(request) as body:
            return _json(rank(body))

    app.router.add_post("/scheduler/filter", filter_nodes)
    app.router.add_post("/scheduler/prioritize", prioritize)
    handlers = {"/scheduler/filter": look, "/scheduler/prioritize": rank}
    return Port(app, at_once(handlers, metrics, draining))


def _traced(
    traces: Traces | None, verb: str, handler: Callable[[bytes], A]
) -> Callable[[bytes], A]:
    """The handler itself where nobody wants traces."""
    return handler if traces is None else traces.of(verb, handler)


def _json(answered: Answered) -> web.Response:
    return web.Response(body=answered.body, content_type="application/json")


def at_once(
    handlers: Mapping[str, Callable[[bytes], Answered | None]],
    metrics: Metrics,
    draining: Callable[[], bool],
) -> AtOnce:
    """Answers plain requests to these paths, and counts them.

    What a handler does not answer, or chokes on, is left to the app, which does it again and knows
    how to refuse; so do requests of clients that should go elsewhere.
    """
    counters = {path: metrics.requests.labels(path, "200") for path in handlers}

    def answer(target: str, body: bytes) -> bytes | None:
        path, _, _query = target.partition("?")
        handler = handlers.get(path)
        if handler is None or draining():
            return None
        try:
            answered = handler(body)
        except Exception:  # noqa: BLE001  the app will meet it, and say so
            return None
        if answered is None:
            return None
        if not answered.dry_run:
            counters[path].inc()
        return answered.body

    return answer
