"""The webhook: is it there, trusted, reachable, and asked for what it serves?"""

from collections.abc import Iterator, Mapping
from typing import Any

from extender.core.doctor.evidence import JSON, Evidence, name_of
from extender.core.doctor.finding import Finding, Id
from extender.core.pod import labels, mapping, objects, text
from extender.core.policy import Policy

PATH = "/mutate"
OPERATIONS = frozenset({"CREATE", "UPDATE"})
LONGEST_TIMEOUT_S = 5
"""Ours is 3; the API server's default is 10."""
END_OF_LIFE = 1 / 5
"""Part of a certificate's life that is left when it should long have been renewed: migfit and our
manifests for cert-manager renew when a third is left."""

_NAME = "kubernetes.io/metadata.name"
_DAY_S = 24 * 3600


def check(evidence: Evidence) -> Iterator[Finding]:
    """Everything about the MutatingWebhookConfiguration and the certificate."""
    if not evidence.knows("webhook"):
        return
    if evidence.webhook is None:
        yield Finding(
            Id.WEBHOOK_MISSING,
            ("MutatingWebhookConfiguration migfit",),
            "There is no MutatingWebhookConfiguration of migfit.",
        )
        return
    where = f"MutatingWebhookConfiguration {name_of(evidence.webhook)}"
    entries = objects(evidence.webhook.get("webhooks"))
    for entry in entries:
        yield from _entry(entry, f"{where}, {text(entry.get('name'))}", evidence)
    sent = {operation for entry in entries for operation in operations_of(entry)}
    if "CREATE" not in sent:
        what = "No entry sends us pods when they are created."
        yield Finding(Id.WEBHOOK_OPERATIONS, (where,), what)
    if "UPDATE" not in sent:
        what = "No entry sends us pods when they are changed."
        yield Finding(Id.WEBHOOK_UPDATES_MISSING, (where,), what)
    yield from _certificate(evidence, where)
    if evidence.endpoints == 0:
        what = "No ready endpoint stands behind the webhook's Service."
        yield Finding(Id.WEBHOOK_WITHOUT_ENDPOINTS, (where,), what)


def _entry(entry: JSON, where: str, evidence: Evidence) -> Iterator[Finding]:
    about = (where,)
    path = path_of(entry)
    if path != PATH:
        yield Finding(Id.WEBHOOK_PATH, about, f"It calls {path or '/'}.")
    operations = operations_of(entry)
    resources = _listed(entry, "resources")
    if not operations <= OPERATIONS or resources != {"pods"}:
        what = f"It sends {_words(operations)} of {_words(resources)}."
        yield Finding(Id.WEBHOOK_OPERATIONS, about, what)
    if entry.get("failurePolicy") != "Ignore":
        yield Finding(
            Id.WEBHOOK_FAILS_CLOSED, about, f"failurePolicy is {entry.get('failurePolicy')}."
        )
    timeout_s = entry.get("timeoutSeconds", 10)
    if not isinstance(timeout_s, int) or timeout_s > LONGEST_TIMEOUT_S:
        yield Finding(Id.WEBHOOK_TIMEOUT, about, f"timeoutSeconds is {timeout_s}.")
    if entry.get("reinvocationPolicy") != "IfNeeded":
        yield Finding(Id.WEBHOOK_NOT_REINVOKED, about, "reinvocationPolicy is Never.")
    yield from _conditions(entry, about, evidence.policy)
    yield from _namespaces(entry, about, evidence)


def _conditions(entry: JSON, about: tuple[str, ...], policy: Policy | None) -> Iterator[Finding]:
    conditions = [text(each.get("expression")) for each in objects(entry.get("matchConditions"))]
    if not conditions:
        yield Finding(Id.WEBHOOK_UNCONDITIONAL, about, "It has no matchConditions.")
    elif policy is not None and not any(
        f"{quote}{policy.gpu_resource}{quote}" in condition
        for condition in conditions
        for quote in "'\""
    ):
        what = f"No condition names {policy.gpu_resource}."
        yield Finding(Id.WEBHOOK_GPU_RESOURCE, about, what)


def _namespaces(entry: JSON, about: tuple[str, ...], evidence: Evidence) -> Iterator[Finding]:
    known = {name_of(item): labels(item) for item in evidence.namespaces}
    selector = mapping(entry.get("namespaceSelector"))
    let_in = [
        name
        for name in ("kube-system", evidence.namespace)
        if selects(selector, {_NAME: name, **known.get(name, {})})
    ]
    if let_in:
        what = f"It is called for pods of {' and '.join(let_in)}."
        yield Finding(Id.WEBHOOK_NAMESPACES, about, what)


def _certificate(evidence: Evidence, where: str) -> Iterator[Finding]:
    certificate = evidence.certificate
    if evidence.certificate_missing:
        what = "It holds no certificate."
        yield Finding(Id.CERTIFICATE_MISSING, (evidence.certificate_missing,), what)
    if certificate is None:
        return
    about = (certificate.where,)
    left_s = certificate.ends_s - evidence.now_s
    if left_s <= 0:
        what = f"The certificate ended {_ago(-left_s)} ago."
        yield Finding(Id.CERTIFICATE_EXPIRED, about, what)
    elif left_s < END_OF_LIFE * (certificate.ends_s - certificate.begins_s):
        what = f"The certificate ends in {_ago(left_s)}."
        yield Finding(Id.CERTIFICATE_ENDING, about, what)
    if certificate.distrust:
        what = f"The caBundle does not vouch for the certificate: {certificate.distrust}."
        yield Finding(Id.WEBHOOK_UNTRUSTED, (where, certificate.where), what)


def operations_of(entry: JSON) -> frozenset[str]:
    """What an entry of a webhook configuration sends."""
    return _listed(entry, "operations")


def path_of(entry: JSON) -> str:
    """The path an entry of a webhook configuration calls."""
    client = mapping(entry.get("clientConfig"))
    if url := text(client.get("url")):
        _, _, rest = url.partition("://")
        return "/" + rest.partition("/")[2]
    return text(mapping(client.get("service")).get("path"))


def selects(selector: JSON, has: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches these labels; an empty one matches all."""
    wanted = mapping(selector.get("matchLabels"))
    return all(has.get(key) == value for key, value in wanted.items()) and all(
        _passes(each, has) for each in objects(selector.get("matchExpressions"))
    )


def _passes(expression: JSON, has: Mapping[str, str]) -> bool:
    value, values = has.get(text(expression.get("key"))), expression.get("values")
    among = isinstance(values, list) and value in values
    return {
        "In": among,
        "NotIn": not among,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }.get(text(expression.get("operator")), False)


def _listed(entry: JSON, key: str) -> frozenset[str]:
    lists: list[Any] = [rule.get(key) for rule in objects(entry.get("rules"))]
    return frozenset(str(each) for one in lists if isinstance(one, list) for each in one)


def _words(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _ago(seconds: float) -> str:
    days, hours = seconds / _DAY_S, seconds / 3600
    return f"{days:.0f} days" if days >= 2 else f"{hours:.0f} hours"  # noqa: PLR2004  days from two on
