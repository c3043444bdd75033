"""The paths that the production apps serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from extender.scheduling.verbs import Scheduling
from extender.server.metrics import Metrics
from extender.server.operations import operations_app
from extender.server.routes import extender_port, webhook_port

if TYPE_CHECKING:
    from aiohttp import web

    from extender.admission.review import Reviewer
    from extender.server.audit import Audit


def webhook_paths() -> set[str]:
    """Of the webhook port. What answers there is not needed to know where."""
    reviewer, audit = cast("Reviewer", None), cast("Audit", None)
    return _paths(webhook_port(reviewer, audit, Metrics(), lambda: False).app)


def extender_paths() -> set[str]:
    """Of the extender port."""
    scheduling = Scheduling.__new__(Scheduling)
    return _paths(extender_port(scheduling, Metrics(), lambda: False).app)


def operations_paths() -> set[str]:
    """Of the operations port."""
    return _paths(operations_app(Metrics(), lambda: None))


def _paths(app: web.Application) -> set[str]:
    return {resource.canonical for resource in app.router.resources()}
