"""What the embedded API server says when it does not do what it was asked: `metav1.Status`."""

from typing import Any, Self


class Refused(Exception):  # noqa: N818  reads as what happened: `raise Refused.not_found(…)`
    """A request that gets a Status instead of an object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    def status(self) -> dict[str, Any]:
        """The body of the answer, and the object of a watch's ERROR event."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }

    @classmethod
    def not_found(cls, plural: str, name: str) -> Self:
        """There is no object of that name."""
        return cls(404, "NotFound", f'{plural} "{name}" not found')

    @classmethod
    def already_exists(cls, plural: str, name: str) -> Self:
        """There is an object of that name."""
        return cls(409, "AlreadyExists", f'{plural} "{name}" already exists')

    @classmethod
    def conflict(cls, plural: str, name: str) -> Self:
        """The object is not the one, or not in the version, that was named."""
        return cls(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on {plural} "{name}": the object has been modified; '
            "please apply your changes to the latest version and try again",
        )

    @classmethod
    def expired(cls, asked: int, oldest: int) -> Self:
        """The version that was named is no longer known."""
        return cls(410, "Expired", f"too old resource version: {asked} ({oldest})")

    @classmethod
    def bad_request(cls, message: str) -> Self:
        """The request cannot be understood."""
        return cls(400, "BadRequest", message)

    @classmethod
    def invalid(cls, kind: str, name: str, message: str) -> Self:
        """The object is understood and must not be as it is."""
        return cls(422, "Invalid", f'{kind} "{name}" is invalid: {message}')
