"""Text -> `Policy`, and the last good one kept while the text changes."""

import hashlib
import json

import msgspec

from extender.config.compile import compiled
from extender.config.default import DEFAULT_DOCUMENT
from extender.config.document import read
from extender.config.problem import ConfigError
from extender.config.types import MigfitConfiguration
from extender.config.validate import validate
from extender.core.policy import Policy


def load(text: str | bytes, *, own_namespace: str = "") -> Policy:
    """The policy that a configuration document says.

    Args:
        text: YAML or JSON, a `MigfitConfiguration`, at most 1 MiB.
        own_namespace: where migfit itself runs; excluded whatever the document says.

    Raises:
        ConfigError: with every problem of the document.
    """
    document = read(text)
    problems = validate(document)
    if problems:
        raise ConfigError(problems)
    return compiled(
        msgspec.convert(document.value, MigfitConfiguration),
        revision=revision_of(document.value),
        own_namespace=own_namespace,
    )


def revision_of(value: object) -> str:
    """Twelve hex digits for the meaning of a document: comments and order of keys do not count."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class Current:
    """The policy in force: the last good one. Reading is one attribute, swapped as a whole."""

    def __init__(self, text: str | bytes = DEFAULT_DOCUMENT, *, own_namespace: str = "") -> None:
        """Start with a document that must be good.

        Raises:
            ConfigError: it is not.
        """
        self._own_namespace = own_namespace
        self.policy: Policy = load(text, own_namespace=own_namespace)
        self.error: ConfigError | None = None
        """Why the last document offered was refused; None when it is in force."""

    @property
    def valid(self) -> bool:
        """Whether the last document offered is the one in force."""
        return self.error is None

    @property
    def revision(self) -> str:
        """Revision of the policy in force."""
        return self.policy.revision

    def offer(self, text: str | bytes) -> ConfigError | None:
        """Take a document into force if it is good; else its error, and all stays as it was.

        A document that says the same leaves the `policy` object as it is.
        """
        try:
            policy = load(text, own_namespace=self._own_namespace)
        except ConfigError as error:
            self.error = error
            return error
        self.error = None
        if policy.revision != self.policy.revision:
            self.policy = policy
        return None
