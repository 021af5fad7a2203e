# SPDX-License-Identifier: Apache-2.0
"""The names of swtpm's command line: a subcommand, and a link named swtpm to tpmfront."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

NAME: Final = "swtpm-compat"
"""Of the subcommand."""
LINK: Final = "swtpm"


def swtpm_words(argv: Sequence[str]) -> list[str] | None:
    """Return the words behind `swtpm` if that is what was called, by either name; None if not."""
    if Path(argv[0]).name == LINK:
        return list(argv[1:])
    return list(argv[2:]) if argv[1:2] == [NAME] else None
