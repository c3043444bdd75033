"""The envelope of a review, and the pod in it as far as anything about it may decide.

A burst of pods is one of replicas, as a ReplicaSet or a Job makes them. They differ in what the API server
writes into each before it asks us: when which field was written, and a volume with a name drawn at
random. No decision depends on either. So managed fields, volumes and mounts of a new pod are left out
here, and nothing in `core` ever sees them. All the rest of its metadata and spec is kept to the last byte,
and not taken apart: whoever has read a pod of the same bytes need not read this one.
"""

from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import orjson

from extender.core.pod import Pod, mapping, text
from extender.core.restore import was_rewritten
from extender.core.rewrite import REWRITTEN_LABEL

API_VERSION = "admission.k8s.io/v1"
MOST_VALUES = 700_000
"""In a body. The fullest pod that the API server takes, twice over in an update, holds fewer; and JSON
that is all brackets takes thirty times its size when it is read."""


class BadReview(ValueError):  # noqa: N818  it is an answer, not a failure
    """The body is no AdmissionReview we can answer; the message says what is wrong with it."""


class Request(NamedTuple):
    """What is asked."""

    uid: str
    namespace: str
    user: str
    dry_run: bool
    pod: bytes
    """JSON of metadata and spec of the pod; of a new one without what replicas differ in."""
    before: Pod | None
    """The pod as it was, for an update."""


def read_request(body: bytes) -> Request:
    """The request of an AdmissionReview, checked as far as an answer depends on it.

    Raises:
        BadReview: there is none, or it is not one for us.
    """
    review = _decoded(body)
    if review.kind != "AdmissionReview":
        raise BadReview("body is not an AdmissionReview; this is a mutating admission webhook")
    if review.api_version != API_VERSION:
        raise BadReview(f"only AdmissionReview of {API_VERSION} is served")
    request = review.request
    if request is None:
        raise BadReview("AdmissionReview has no request")
    if not isinstance(request.uid, str) or not request.uid:
        raise BadReview("request has no uid")
    kind = mapping(request.kind)
    if (kind.get("group", ""), kind.get("kind")) != ("", "Pod") or request.sub_resource:
        raise BadReview("request is not about a Pod; only Pods are served")
    if request.operation not in ("CREATE", "UPDATE"):
        raise BadReview("request is neither CREATE nor UPDATE; nothing else is served")
    updates = request.operation == "UPDATE"
    before = mapping(read_json(bytes(request.old_object))) if updates else None
    pod = _told(request, new=not updates)
    if not pod.startswith(b"{"):
        raise BadReview("request carries no object")
    if before is not None and not was_rewritten(before):
        raise BadReview(f"oldObject is no pod with {REWRITTEN_LABEL}; no other UPDATE is served")
    return Request(
        request.uid,
        text(request.namespace),
        text(mapping(request.user_info).get("username")),
        request.dry_run is True,
        pod,
        before,
    )


def read_json(told: bytes) -> Any:
    """A JSON value.

    Raises:
        BadReview: it is none, or is nested too deeply to be read.
    """
    try:
        return orjson.loads(told)
    except orjson.JSONDecodeError as error:
        raise BadReview(f"body is not JSON: {error}") from None


# --- as it comes ---------------------------------------------------------------------------------

_NULL = msgspec.Raw(b"null")
_Members = dict[str, msgspec.Raw]
_encode = msgspec.json.Encoder().encode


class _Pod(msgspec.Struct):
    """A pod of the usual shape; what else it has is no part of what its author says."""

    metadata: _Members
    spec: _Members


class _Request(msgspec.Struct, rename="camel", kw_only=True):
    uid: Any = None
    kind: Any = None
    sub_resource: Any = None
    namespace: Any = None
    operation: Any = None
    user_info: Any = None
    dry_run: Any = None
    old_object: msgspec.Raw = _NULL


class _Usual(_Request):
    object: _Pod


class _Odd(_Request):
    """Its pod, if it is one, is read as a whole: nobody makes replicas of it."""

    object: msgspec.Raw = _NULL


R = TypeVar("R", bound=_Request)


class _Review(msgspec.Struct, Generic[R], rename="camel"):
    kind: Any = None
    api_version: Any = None
    request: R | None = None


_usual = msgspec.json.Decoder(_Review[_Usual])
_odd = msgspec.json.Decoder(_Review[_Odd])
_containers = msgspec.json.Decoder(list[_Members])


def _told(request: _Usual | _Odd, *, new: bool) -> bytes:
    """The pod's JSON, whatever JSON that is."""
    if isinstance(request, _Odd):
        return bytes(request.object)
    if new:
        meta, spec = request.object.metadata, request.object.spec
        meta.pop("managedFields", None)
        spec.pop("volumes", None)
        for member in ("containers", "initContainers"):
            if member in spec:
                spec[member] = _without_mounts(spec[member])
    return _encode(request.object)


def _without_mounts(listed: msgspec.Raw) -> msgspec.Raw:
    try:
        containers = _containers.decode(listed)
    except (ValueError, RecursionError):
        return listed  # whoever reads the pod will say what is wrong with it, if anything is
    for container in containers:
        container.pop("volumeMounts", None)
    return msgspec.Raw(_encode(containers))


def _decoded(body: bytes) -> _Review[Any]:
    if len(body) > MOST_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise BadReview(f"body holds more than {MOST_VALUES} values; no review of a pod does")
    try:
        try:
            return _usual.decode(body)
        except msgspec.ValidationError:
            return _odd.decode(body)
    except msgspec.ValidationError as error:
        raise BadReview(f"body is not an AdmissionReview: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadReview(f"body is not JSON: {error}") from None
