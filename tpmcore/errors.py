# SPDX-License-Identifier: Apache-2.0
"""The two errors of this layer: what a client is told, and a broken invariant."""

from __future__ import annotations

from protocol.tpm12.constants import ReturnCode


class TpmError(Exception):
    """A command that ends with a return code other than success.

    Attributes:
        code: the number; a ReturnCode where the number has a name.
    """

    def __init__(self, code: int) -> None:
        try:
            self.code: int = ReturnCode(code)
            name = f"TPM_{ReturnCode(code).name}"
        except ValueError:
            self.code = code
            name = "unknown code"
        super().__init__(f"{name} ({code:#x})")


class GateError(TpmError):
    """A refusal before any session was looked at: the sessions that the command names stay."""


class EngineFault(Exception):
    """An invariant of the engine is broken; the TPM goes into failure mode."""
