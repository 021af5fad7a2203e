# SPDX-License-Identifier: Apache-2.0
"""Every log line of a test run, and every secret that it used: the ones must not show the others.

Tests name their secrets with `secret`; whatever daemons wrote into the folder of a test is
collected when the test is over. `test_whole_log` runs last and looks. Of tests that run in several
workers each hands over what it has when it ends, and the process that started them looks through
all of it (tests/conftest.py).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHORTEST_BYTES = 8
"""Shorter ones would be found by chance."""
_LOG_NAME = re.compile(r".*stderr.*|.*[.]log|journal")


@dataclass(slots=True)
class LogSearch:
    """What a run has logged so far, and what must not be in it.

    Attributes:
        secrets: as bytes.
        logs: by where they came from.
    """

    secrets: set[bytes] = field(default_factory=set, repr=False)
    logs: dict[str, bytes] = field(default_factory=dict, repr=False)

    def secret(self, value: bytes) -> bytes:
        """Take note of a secret and return it."""
        assert len(value) >= SHORTEST_BYTES
        self.secrets.add(value)
        return value

    def password(self, text: str) -> str:
        """Take note of a password, and of the authorization value that is made of it."""
        self.secret(text.encode())
        self.secret(hashlib.sha1(text.encode()).digest())
        # tpm-tools hash UTF-16 with its final zeros, or without them.
        for end in (b"", bytes(2)):
            self.secret(hashlib.sha1(text.encode("utf-16-le") + end).digest())
        return text

    def collect(self, folder: Path) -> None:
        """Take note of everything that was logged below a folder."""
        for path in sorted(folder.rglob("*")):
            if _LOG_NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                self.logs[str(path)] = path.read_bytes()

    def handed_over(self) -> dict[str, Any]:
        """Return everything, as what can be passed between processes."""
        return {"secrets": sorted(self.secrets), "logs": dict(self.logs)}

    def take(self, handed_over: Mapping[str, Any]) -> None:
        """Take note of everything that another process has."""
        self.secrets |= set(handed_over["secrets"])
        self.logs |= handed_over["logs"]

    def found(self) -> Iterator[str]:
        """Say where secrets are to be seen, without repeating them."""
        for secret in sorted(self.secrets):
            for form, text in _forms(secret).items():
                for name, log in self.logs.items():
                    if text in log:
                        yield f"{name}: a secret of {len(secret)} bytes, {form}"


def _forms(secret: bytes) -> dict[str, bytes]:
    """Return how a secret may look in a log.

    Of its base64 what does not depend on what stands before and behind it there.
    """
    forms = {
        "as it is": secret,
        "in hexadecimal": secret.hex().encode(),
        "in capital hexadecimal": secret.hex().upper().encode(),
        "in spaced hexadecimal": secret.hex(" ").encode(),
        "as Python shows bytes": repr(secret)[2:-1].encode(),
    }
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + secret)
        forms[f"in base64 at {shift}"] = whole[4 if shift else 0 : -4]
    return {form: text for form, text in forms.items() if len(text) >= SHORTEST_BYTES}


SEARCH = LogSearch()
"""Of this run."""
