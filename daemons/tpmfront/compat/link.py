# SPDX-License-Identifier: Apache-2.0
"""The link named swtpm to tpmfront, by which it is `tpmfront swtpm-compat`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

NAME: Final = "swtpm-compat"
"""Of the subcommand."""
LINK: Final = "swtpm"


def words_of_link(argv: Sequence[str]) -> list[str] | None:
    """Return the words for `tpmfront` if it was called by a link named swtpm; None if not."""
    return [NAME, *argv[1:]] if Path(argv[0]).name == LINK else None
