# SPDX-License-Identifier: Apache-2.0
"""One error path of an ordinal: how the table of the chapters is written down."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.tpm12.constants import ReturnCode


@dataclass(frozen=True, slots=True)
class ErrorPath:
    """One way in which an ordinal is refused.

    Attributes:
        code: what it ends in.
        when: the condition, in a few words.
        case: name of the conformance case that tries it, or, where the reference has no such
            command, ends itself, reads beyond its memory or cannot be brought to the condition, a
            unit test (`test_module.py::test_name`, below tests/unit/tpm12).
        untried: instead of a case, why no sequence of commands can show it.
    """

    code: ReturnCode
    when: str
    case: str = ""
    untried: str = ""
