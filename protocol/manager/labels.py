# SPDX-License-Identifier: Apache-2.0
"""Labels of vTPMs, their hashes, and which of them a group's list approves.

Xen's manager has no measurement of a vTPM's kernel and takes the hash of its XSM label instead. So
does the label that a guest has in the configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container


def label_hash(label: str) -> bytes:
    """Return the kern_hash of a label: its SHA-1, 20 bytes (Xen's stand-in for a measurement)."""
    return hashlib.sha1(label.encode()).digest()


def approved_form(kernels: Container[bytes], label: str) -> str | None:
    """Return the form in which a list approves a label: the label itself, else the label with "*"
    for what is before its first colon; None if it approves neither.

    Args:
        kernels: of the list, 20 bytes each.
    """
    if label_hash(label) in kernels:
        return label
    user, colon, rest = label.partition(":")
    wild = f"*{colon}{rest}"
    return wild if user and colon and label_hash(wild) in kernels else None
