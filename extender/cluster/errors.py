"""What can go wrong between us and the API server. No exception of aiohttp leaves `cluster`."""

import msgspec

_MAX_MESSAGE_CHARS = 256


class ClusterError(Exception):
    """Base of everything that the cluster, or the way to it, can do to us."""


class KubeconfigError(ClusterError):
    """There is no usable description of the cluster: nothing to retry, the user must act."""


class Unreachable(ClusterError):  # noqa: N818  a state of the cluster, not a fault of ours
    """No answer: refused, cut, timed out, TLS failed, or credentials could not be renewed."""


class Silent(Unreachable):
    """A watch that was open and said nothing for too long: what it has brought is not all there is."""


class Unreadable(ClusterError):  # noqa: N818  as above
    """An answer came, and it is not what the API server sends."""


class ApiError(ClusterError):
    """The API server answered, and said no.

    Attributes:
        status: HTTP status, or the code of an ERROR event.
        reason: Kubernetes' word for it (`Expired`, `Forbidden`), else the HTTP phrase.
        message: the server's sentence, cut to 256 characters; empty if the body was no Status.
        retry_after_s: what the server asks us to wait, if it does.
    """

    def __init__(
        self, status: int, reason: str = "", message: str = "", retry_after_s: float | None = None
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = cut(message)
        self.retry_after_s = retry_after_s
        super().__init__(": ".join(filter(None, (f"{status} {reason}".strip(), self.message))))


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: int | None = None


class Status(msgspec.Struct, rename="camel"):
    """The few fields we read of Kubernetes' `Status`, the body of every refusal."""

    kind: str
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None

    def error(self, status: int, reason: str = "", retry_after_s: float | None = None) -> ApiError:
        """This refusal as an exception; what the Status leaves out is taken from the arguments."""
        if retry_after_s is None and self.details is not None:
            retry_after_s = self.details.retry_after_seconds
        return ApiError(
            self.code or status, self.reason or reason, self.message or "", retry_after_s
        )


_STATUS = msgspec.json.Decoder(Status)


def refusal(status: int, phrase: str, body: bytes, retry_after: str | None) -> ApiError:
    """An HTTP answer outside 2xx as an `ApiError`.

    Args:
        status: HTTP status.
        phrase: HTTP reason phrase.
        body: of the answer. One that is no `Status` (a proxy's HTML page, say) is dropped: it is
            not for logs.
        retry_after: the header; only whole seconds are understood, a date is ignored.
    """
    wait_s = (
        float(retry_after)
        if retry_after and retry_after.isascii() and retry_after.isdigit()
        else None
    )
    try:
        told = _STATUS.decode(body)
    except (ValueError, RecursionError):
        return ApiError(status, phrase, "", wait_s)
    if told.kind != "Status":
        return ApiError(status, phrase, "", wait_s)
    told.code = status
    return told.error(status, phrase, wait_s)


def cut(text: str) -> str:
    """At most 256 characters of text, in one line: fit for a log."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE_CHARS else line[: _MAX_MESSAGE_CHARS - 1] + "…"
