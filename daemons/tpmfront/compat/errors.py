# SPDX-License-Identifier: Apache-2.0
"""What ends the command before it serves; its exit code is 1 whatever it is, as swtpm's."""

from __future__ import annotations

from daemons.runtime.errors import DaemonError


class BadLine(Exception):
    """A command line, or a file or descriptor that it names, is not what swtpm takes; the message
    says all."""


class UnreadableLine(BadLine):
    """The command line cannot be taken apart; the list of options goes with the reason."""


class Refusal(DaemonError):
    """The TPM cannot be had."""
