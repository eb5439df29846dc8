"""What the server refuses, in the words and the envelope of the OpenAI API."""

from __future__ import annotations

from typing import Any

KINDS = {
    400: "invalid_request_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer other than 200: its status, one line that says why, and the field that is to blame."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI words it.

        >>> ApiError(400, "n: is 0", "n").body()
        {'error': {'message': 'n: is 0', 'type': 'invalid_request_error', 'param': 'n', 'code': None}}
        """
        kind = KINDS.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it; who finds the queue full may come again in a second."""
        return {"Retry-After": "1"} if self.status in (429, 503) else {}
