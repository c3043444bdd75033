"""The API server's side of a mutating webhook: one review, its patch, its warnings.

`failurePolicy: Ignore`, `timeoutSeconds: 3`, `sideEffects: NoneOnDryRun`, as our manifests have it.
"""

import asyncio
import base64
import binascii
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import orjson

from extender.core.rewrite import Patch, PatchError, apply
from extender.demo.refusal import Refused

TIMEOUT_S = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The pod after admission."""

    pod: Mapping[str, Any]
    uid: str
    """Of the review; the webhook's audit line has it as `id`."""
    warnings: tuple[str, ...] = ()
    audit: Mapping[str, str] = field(default_factory=dict)
    failed_open: str = ""
    """Why the webhook was passed over; empty if it answered."""


class _Status(msgspec.Struct):
    code: int = 403
    message: str = "denied without a message"


class _Response(msgspec.Struct, rename="camel"):
    uid: str
    allowed: bool
    status: _Status | None = None
    patch: str | None = None
    patch_type: str | None = None
    warnings: list[str] | None = None
    audit_annotations: dict[str, str] | None = None


class _Review(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    response: _Response


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where reviews are sent.

    Args:
        session: for the connections.
        url: `https://127.0.0.1:PORT/mutate`.
        tls: trusts the webhook's authority.
    """

    session: aiohttp.ClientSession
    url: str
    tls: ssl.SSLContext

    async def admit(self, pod: Mapping[str, Any], namespace: str, *, dry_run: bool) -> Admitted:
        """Have a new pod reviewed, and apply what comes back.

        Raises:
            Refused: the webhook denied the pod, or sent a patch that does not apply (500, also
                under failurePolicy Ignore: this is the API server's behaviour).
        """
        request = review(pod, namespace, dry_run=dry_run)
        uid = request["request"]["uid"]
        try:
            answer = await self._send(request)
            patch = _patch(answer)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = str(error) or type(error).__name__
            return Admitted(pod=pod, uid=uid, failed_open=why)
        if not answer.allowed:
            status = answer.status or _Status()
            message = f'admission webhook "migfit.io" denied the request: {status.message}'
            raise Refused(max(status.code, 400), "Forbidden", message)
        try:
            patched = _patched(patch, pod)
        except PatchError as error:
            raise Refused(500, "InternalError", f"Internal error occurred: {error}") from error
        return Admitted(
            pod=patched,
            uid=uid,
            warnings=tuple(answer.warnings or ()),
            audit=answer.audit_annotations or {},
        )

    async def _send(self, request: Mapping[str, Any]) -> _Response:
        async with (
            asyncio.timeout(TIMEOUT_S),
            self.session.post(
                f"{self.url}?timeout={TIMEOUT_S}s",
                data=orjson.dumps(request),
                headers={"Content-Type": "application/json"},
                ssl=self.tls,
            ) as response,
        ):
            body = await response.read()
            if response.status != 200:  # noqa: PLR2004  the only status that counts as an answer
                raise ValueError(f"status {response.status}")
        answer = msgspec.json.decode(body, type=_Review)
        if (answer.api_version, answer.kind) != ("admission.k8s.io/v1", "AdmissionReview"):
            raise ValueError(f"the answer is a {answer.api_version} {answer.kind}")
        if answer.response.uid != request["request"]["uid"]:
            raise ValueError("the answer has another uid")
        return answer.response


def _patch(answer: _Response) -> Patch:
    if not answer.allowed or (answer.patch is None and answer.patch_type is None):
        return []
    if answer.patch is None or answer.patch_type != "JSONPatch":
        raise ValueError("patch and patchType must come together")
    try:
        decoded = orjson.loads(base64.b64decode(answer.patch, validate=True))
    except binascii.Error as error:
        raise ValueError(f"the patch is not base64: {error}") from error
    if not isinstance(decoded, list):
        raise ValueError("the patch is not a list")  # noqa: TRY004  bad data, not a bad type of ours
    return decoded


def _patched(patch: Patch, pod: Mapping[str, Any]) -> dict[str, Any]:
    for step in patch:
        if step.get("op") not in ("add", "remove"):
            raise PatchError(f"{step.get('op')}: the demo's API server knows add and remove")
    return apply(patch, pod)


def review(pod: Mapping[str, Any], namespace: str, *, dry_run: bool) -> dict[str, Any]:
    """The AdmissionReview for a pod that is about to be created."""
    resource = {"group": "", "version": "v1", "resource": "pods"}
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    name = pod["metadata"].get("name")
    request: dict[str, Any] = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "namespace": namespace,
        "operation": "CREATE",
        "userInfo": {"username": "demo", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": dry_run,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    if name:
        request["name"] = name
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
