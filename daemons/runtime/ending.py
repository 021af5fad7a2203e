# SPDX-License-Identifier: Apache-2.0
"""What the log says of a daemon that ends for a reason; apart from `daemon` for those who must not
wait for all that it imports."""

from __future__ import annotations

from daemons.runtime.log import Log


def log_end(log: Log, reason: str, *, is_refusal: bool) -> None:
    """Log why a daemon ends.

    Args:
        log: of the daemon.
        reason: a line for each; a configuration has one for each of its mistakes.
        is_refusal: it leaves everything as it found it, see `RefusedToStart`.
    """
    for line in reason.splitlines():
        if is_refusal:
            log.error("refused to start", reason=line)
        else:
            log.error("failed", reason=line)
