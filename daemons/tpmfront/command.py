# SPDX-License-Identifier: Apache-2.0
"""The command `tpmfront` as it is installed: that of `cli`, or swtpm's command line.

The latter goes its own way, past click and all that the other forms import, since its sockets must
be there soon (`compat.places`).
"""

from __future__ import annotations

import os
import sys

from daemons.tpmfront.compat.link import NAME, swtpm_words
from daemons.tpmfront.compat.options import Interface
from daemons.tpmfront.compat.process import run

_INTERFACES = {interface.value: interface for interface in Interface}


def main() -> object:
    """Run the command with the words of this process."""
    words = swtpm_words(sys.argv)
    if words and words[0] in _INTERFACES:
        interface = _INTERFACES[words[0]]
        run(interface, words[1:], lambda: _usage(interface), os.environ, _show)
    from daemons.tpmfront import cli

    return cli.main() if words is None else cli.main([NAME, *words], "tpmfront")


def _usage(interface: Interface) -> str:
    from daemons.tpmfront.compat.cli import usage

    return usage(interface)


def _show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
