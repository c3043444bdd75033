"""Where a self-managed certificate is kept, and where the API server reads whom to trust.

The Secret is written by whoever is first; the others are told that it has changed, and look again.
All that is needed are the rights get, create and patch on that one Secret, and get and patch on that
one webhook configuration.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, Unreadable

MANAGER = "migfit"
"""Field manager of what we write."""
MARK = {"app.kubernetes.io/managed-by": "migfit"}
"""Label of a Secret that is ours: any other with something in it is left alone."""
INJECTED = "cert-manager.io/inject-"
"""Annotations by which cert-manager is told to fill in the caBundle."""

T = TypeVar("T")


class ChangedError(Exception):
    """Somebody else has written since we read: look again."""


# --- the Secret ----------------------------------------------------------------------------------


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A Secret as it was read.

    Attributes:
        version: its resourceVersion.
        ours: whether we made it, or it is empty and so for us to fill.
        data: by key; a value that is not base64 is left out.
    """

    version: str
    ours: bool
    data: Mapping[str, bytes]


class SecretStore:
    """One Secret. Methods raise `ClusterError` if the API server says no, or nothing."""

    def __init__(self, client: ApiClient, namespace: str, name: str) -> None:
        self._client = client
        self._namespace, self._name = namespace, name
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{name}"

    def __str__(self) -> str:
        return f"{self._namespace}/{self._name}"

    async def read(self) -> Stored | None:
        """The Secret; None if there is none."""
        body = await _get(self._client, self._path)
        if body is None:
            return None
        secret = _decoded(body, _Secret, self._path)
        data = {
            key: value
            for key, text in (secret.data or {}).items()
            if (value := _unpacked(text)) is not None
        }
        labels = secret.metadata.labels or {}
        ours = not any(data.values()) or labels.items() >= MARK.items()
        return Stored(secret.metadata.resource_version, ours, data)

    async def create(self, data: Mapping[str, bytes]) -> str:
        """Make the Secret; its resourceVersion.

        By server-side apply: a POST would need the right to create any Secret, whereas this names
        the one. Each apply is somebody else's: of two at once the later is refused.

        Raises:
            ChangedError: there is one already.
        """
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "labels": MARK},
            "type": "kubernetes.io/tls",
            "data": _packed(data),
        }
        params = {"fieldManager": f"{MANAGER}-{secrets.token_hex(4)}"}
        return await self._patch(manifest, "application/apply-patch+yaml", params)

    async def replace(self, data: Mapping[str, bytes], version: str) -> str:
        """Write over the version that was read; the new resourceVersion.

        Raises:
            ChangedError: it is not that version any more, or gone.
        """
        change = {
            "metadata": {"resourceVersion": version, "labels": MARK},
            "data": _packed(data),
        }
        params = {"fieldManager": MANAGER}
        try:
            return await self._patch(change, "application/merge-patch+json", params)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise ChangedError from None
            raise

    async def _patch(self, change: object, kind: str, params: dict[str, str]) -> str:
        body = await _changing(self._client, self._path, change, kind, params)
        return _decoded(body, _Secret, self._path).metadata.resource_version


# --- the webhook configuration -------------------------------------------------------------------


class _ClientConfig(msgspec.Struct, rename="camel"):
    ca_bundle: str = ""


class _Webhook(msgspec.Struct, rename="camel"):
    client_config: _ClientConfig


class _Configuration(msgspec.Struct):
    metadata: _Meta
    webhooks: list[_Webhook] | None = None


@dataclass(frozen=True, slots=True)
class Trusted:
    """Whom the API server trusts, as it was read.

    Attributes:
        version: resourceVersion of the configuration.
        bundles: the caBundle of each webhook in it, PEM; empty where there is none.
        injected: whether cert-manager was told to write them.
    """

    version: str
    bundles: tuple[bytes, ...]
    injected: bool


class WebhookConfiguration:
    """One MutatingWebhookConfiguration, of which we write the caBundle of every webhook.

    By JSON patch: it names nothing but `caBundle`, so that is all we own beside whoever applies the
    rest, and it is refused if anything has changed since we read, so that it can neither bring back
    a webhook that was taken out nor hit the wrong one. Server-side apply would need the right to
    create the configuration as well.
    """

    def __init__(self, client: ApiClient, name: str) -> None:
        self._client = client
        self._name = name
        group = "/apis/admissionregistration.k8s.io/v1"
        self._path = f"{group}/mutatingwebhookconfigurations/{name}"

    def __str__(self) -> str:
        return self._name

    async def read(self) -> Trusted | None:
        """The configuration; None if there is none."""
        body = await _get(self._client, self._path)
        if body is None:
            return None
        found = _decoded(body, _Configuration, self._path)
        texts = (each.client_config.ca_bundle for each in found.webhooks or ())
        annotations = found.metadata.annotations or {}
        return Trusted(
            found.metadata.resource_version,
            tuple(_unpacked(text) or b"" for text in texts),
            any(key.startswith(INJECTED) for key in annotations),
        )

    async def write(self, seen: Trusted, bundle: bytes) -> None:
        """Let every webhook trust this bundle, if nothing was changed since it was `seen`.

        The bundle must be from a Secret read after that: whoever stored a newer one had written it
        here before we looked, or writes it after us.

        Raises:
            ChangedError: it has been changed, or deleted.
        """
        value = base64.b64encode(bundle).decode()
        change: list[dict[str, str]] = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": seen.version}
        ]
        change += [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": value}
            for index, has in enumerate(seen.bundles)
            if has != bundle
        ]
        kind, params = "application/json-patch+json", {"fieldManager": MANAGER}
        try:
            await _changing(self._client, self._path, change, kind, params)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise ChangedError from None
            raise


# --- requests ------------------------------------------------------------------------------------


async def _get(client: ApiClient, path: str) -> bytes | None:
    try:
        return await client.get(path)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


async def _changing(
    client: ApiClient, path: str, change: object, content_type: str, params: dict[str, str]
) -> bytes:
    body = json.dumps(change).encode()
    try:
        return await client.request("PATCH", path, body, content_type, params)
    except ApiError as error:
        if error.status == HTTPStatus.CONFLICT:
            raise ChangedError from None
        raise


def _decoded(body: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unreadable(f"GET {path}: this is not what the API server sends") from None


def _packed(data: Mapping[str, bytes]) -> dict[str, Any]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}


def _unpacked(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
