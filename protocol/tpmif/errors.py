# SPDX-License-Identifier: Apache-2.0
"""What a user of the split driver has to expect, beside `protocol.errors.WireError`.

A breach of the protocol by the peer is a `WireError` inside the halves; the transport ends the
connection for it, and the user of a frontend sees `BackendLost`.
"""


class TpmifError(Exception):
    """Base of the errors below; raised itself for a call that cannot be carried out.

    Such a call changed nothing: a request that is too long or a locality outside a byte.
    """


class RequestCancelled(TpmifError):
    """The backend gave the request up (page state IDLE): there is no response."""


class BackendLost(TpmifError):
    """The connection is gone: the backend died, closed the device or broke the protocol.

    Args:
        reason: what happened, for the log.
        submitted: True if the request was handed over, so that it may have been executed;
            False if it surely was not, and may be sent again on a new connection.
    """

    def __init__(self, reason: str, *, submitted: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.submitted = submitted


class BackendRefused(BackendLost):
    """The backend is there and does not serve this device; `reason` is in its own words."""


class Refused(TpmifError):
    """Raised by the user of a backend to turn a frontend away.

    Args:
        reason: told to the frontend, so nothing secret. Printable ASCII, shortened to
            `messages.ERROR_LIMIT` characters.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
