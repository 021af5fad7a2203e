# SPDX-License-Identifier: Apache-2.0
"""The one error of this layer: bytes that do not parse."""


class WireError(Exception):
    """Bytes from a peer that do not form what they claim to be.

    Args:
        field: name of the field or structure that was being read.
        offset: byte offset in the input at which it starts.
        reason: what is wrong, with the value and the limit.
    """

    def __init__(self, field: str, offset: int, reason: str) -> None:
        super().__init__(f"{field} at offset {offset}: {reason}")
        self.field = field
        self.offset = offset
        self.reason = reason
