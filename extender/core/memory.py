"""What a decision may remember from pods before: nothing that depends on what is free just now."""

from collections.abc import Sequence
from typing import Protocol

from extender.core.footprint import Footprint
from extender.core.pod import Pod
from extender.core.policy import Policy
from extender.core.quota import Namespace
from extender.core.reading import Reading, read
from extender.core.shortlist import Shortlist
from extender.core.snapshot import Snapshot
from extender.core.subject import Subject


class Memory(Protocol):
    """The pods of one template are read alike: whoever decides on many may make each of these once."""

    def read(self, pod: Pod, namespace: str, home: Namespace, policy: Policy) -> Reading:
        """As `read` does."""

    def shortlist(
        self, subject: Subject, wanted: Sequence[Footprint], snapshot: Snapshot, policy: Policy
    ) -> Shortlist:
        """As `Shortlist` does."""


class Afresh:
    """No memory: everything is made for each pod."""

    read = staticmethod(read)
    shortlist = staticmethod(Shortlist)
