"""A subset of the Kubernetes API over HTTPS: list, watch, get, create, replace, patch, delete.

Any collection may be listed and watched; what nobody created is an empty list, never a 404. Pods
that are created go through defaulting, the webhook and validation, in the real order.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from extender.core.defaulting import defaulted
from extender.demo.admission import Admitted, Webhook
from extender.demo.certificate import Certificate
from extender.demo.listing import Lister, kind_of
from extender.demo.pods import identified, validate
from extender.demo.refusal import Refused
from extender.demo.store import NAMESPACES, PODS, Key, Object, Resource, Store

MAX_BODY = 3 << 20
"""Bytes of a request, as the real one's limit."""

_MERGE_PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_HEALTH = ("healthz", "livez", "readyz")


class Place(NamedTuple):
    """What a path names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name


def place(path: str) -> Place:
    """Read `/api/v1/namespaces/default/pods/asr/status` and its like.

    Raises:
        Refused: 404, no path of the API.
    """
    match path.strip("/").split("/"):
        case ["api", "v1", *rest] if rest:
            version = "v1"
        case ["apis", group, number, *rest] if rest:
            version = f"{group}/{number}"
        case _:
            raise Refused(404, "NotFound", f"{path} is no path of this API")
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):  # noqa: PLR2004
        namespace, rest = rest[1], rest[2:]
    match rest:
        case [plural]:
            return Place(Resource(version, plural), namespace)
        case [plural, name]:
            return Place(Resource(version, plural), namespace, name)
        case [plural, name, subresource]:
            return Place(Resource(version, plural), namespace, name, subresource)
    raise Refused(404, "NotFound", f"{path} is no path of this API")


def merged(target: object, patch: object) -> Any:
    """RFC 7386: maps are merged, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class ApiServer:
    """The API of one embedded cluster, on a free port of loopback.

    Args:
        store: the objects.
        certificate: what it shows to clients.
        bookmark_s: how often an idle watch gets a bookmark.
    """

    def __init__(self, store: Store, certificate: Certificate, *, bookmark_s: float = 10.0) -> None:
        self.store = store
        self.webhook: Webhook | None = None
        """Reviews pods before they are created; None: nothing is registered."""
        self.admitted: dict[Key, Admitted] = {}
        """The last review of each pod that was created: the audit log of this API server."""
        self.url = ""
        self._certificate = certificate
        self._lister = Lister(store, bookmark_s=bookmark_s)
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )

    async def start(self) -> None:
        """Listen; afterwards `url` is set."""
        await self._runner.setup()
        context = self._certificate.server_context()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """End all connections, watches included."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path.strip("/") in _HEALTH:
                return web.Response(text="ok")
            if request.path == "/version":
                return _json({"major": "1", "minor": "34", "gitVersion": "v1.34.0+migfit-demo"})
            return await self._route(request, place(request.path))
        except Refused as refused:
            return _json(refused.status(), refused.code)

    async def _route(self, request: web.Request, at: Place) -> web.StreamResponse:
        match request.method:
            case "GET" if at.name:
                return _json({**_typed(at), **self.store.get(at.resource, at.key)})
            case "GET" if request.query.get("watch") in ("true", "1"):
                return await self._lister.stream(request, at.resource, at.namespace)
            case "GET":
                return _json(self._lister.page(at.resource, at.namespace, request.query))
            case "POST" if not at.name:
                return await self._create(request, at)
            case "POST" if (at.resource, at.subresource) == (PODS, "binding"):
                body = await _body(request)
                self.bind(at.key, str(body.get("target", {}).get("name", "")))
                return _json({"kind": "Status", "apiVersion": "v1", "status": "Success"}, 201)
            case "PUT" if at.name:
                return _json(self._replace(at, await _body(request)))
            case "PATCH" if at.name:
                return _json(self._replace(at, await self._patched(request, at)))
            case "DELETE" if at.name and not at.subresource:
                return _json(self._delete(at, await _body(request)))
        message = f"the demo's API server does not know {request.method} {request.path}"
        raise Refused(405, "MethodNotAllowed", message)

    async def _create(self, request: web.Request, at: Place) -> web.Response:
        item: Object = await _body(request)
        if not isinstance(item.get("metadata"), dict):
            raise Refused.bad_request("metadata: must be a map with a name")
        if at.namespace:
            self.store.get(NAMESPACES, ("", at.namespace))
        dry_run = request.query.get("dryRun") == "All"
        warnings: tuple[str, ...] = ()
        if at.resource == PODS:
            item, review = await self._admit(item, at.namespace, dry_run=dry_run)
            warnings = review.warnings if review else ()
        else:
            item = identified({**_typed(at), **item}, at.namespace)
            review = None
        if not item["metadata"].get("name"):
            raise Refused.invalid(kind_of(at.resource), "", "metadata.name: Required value")
        if not dry_run:
            item = self.store.create(at.resource, item)
            if review:
                self.admitted[at.namespace, item["metadata"]["name"]] = review
        response = _json(item, 201)
        for warning in warnings:
            if warning.isprintable():  # the real one drops what has control characters
                quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
                response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    async def _admit(
        self, pod: Object, namespace: str, *, dry_run: bool
    ) -> tuple[Object, Admitted | None]:
        if not namespace:
            raise Refused.bad_request("pods live in a namespace: POST to …/namespaces/NAME/pods")
        meta = {**pod["metadata"], "namespace": namespace}
        pod = defaulted({**pod, "metadata": meta})
        review = None
        if self.webhook:
            review = await self.webhook.admit(pod, namespace, dry_run=dry_run)
            pod = defaulted(review.pod)
        pod = identified(pod, namespace)
        validate(pod)
        return {**pod, "status": {"phase": "Pending"}}, review

    async def _patched(self, request: web.Request, at: Place) -> Object:
        before = {**_typed(at), **self.store.get(at.resource, at.key)}
        raw = await _raw(request)
        if request.content_type in _MERGE_PATCHES and isinstance(raw, dict):
            changed: Object = merged(before, raw)
            return changed
        raise Refused(
            415,
            "UnsupportedMediaType",
            f"the demo's API server takes {' and '.join(_MERGE_PATCHES)}",
        )

    def _replace(self, at: Place, item: Object) -> Object:
        before = self.store.get(at.resource, at.key)
        if at.subresource == "status":
            meta = {**before["metadata"], **_version(item)}
            item = {**before, "metadata": meta, "status": item.get("status", {})}
        elif at.subresource:
            raise Refused.not_found(f"{at.resource.plural}/{at.subresource}", at.name)
        return self.store.replace(at.resource, at.key, item)

    def _delete(self, at: Place, options: Mapping[str, Any]) -> Object:
        expected = options.get("preconditions") or {}
        gone = self.store.delete(
            at.resource,
            at.key,
            uid=expected.get("uid", ""),
            version=expected.get("resourceVersion", ""),
        )
        if at.resource == PODS:
            self.admitted.pop(at.key, None)
        return gone

    def bind(self, key: Key, node: str) -> Object:
        """Put a pod on a node; the kubelet there starts it at once.

        Raises:
            Refused: 404, no such pod; 409, it is on a node already.
        """
        pod = self.store.get(PODS, key)
        if pod["spec"].get("nodeName"):
            raise Refused.conflict("pods/binding", key[1])
        condition = {"type": "PodScheduled", "status": "True"}
        return self.store.replace(
            PODS,
            key,
            {
                **pod,
                "spec": {**pod["spec"], "nodeName": node},
                "status": {**pod["status"], "phase": "Running", "conditions": [condition]},
            },
        )


async def _raw(request: web.Request) -> Any:
    try:
        text = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused(413, "RequestEntityTooLarge", f"more than {MAX_BODY} bytes") from error
    try:
        return orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise Refused.bad_request(f"the body is not JSON: {error}") from error


async def _body(request: web.Request) -> dict[str, Any]:
    raw = await _raw(request)
    if not isinstance(raw, dict):
        raise Refused.bad_request("the body must be a JSON object")
    return raw


def _typed(at: Place) -> dict[str, str]:
    return {"kind": kind_of(at.resource), "apiVersion": at.resource.api_version}


def _version(item: Object) -> dict[str, str]:
    version = item.get("metadata", {}).get("resourceVersion")
    return {"resourceVersion": version} if version else {}


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
