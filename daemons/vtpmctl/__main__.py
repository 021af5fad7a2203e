# SPDX-License-Identifier: Apache-2.0
"""`python -m daemons.vtpmctl`."""

from __future__ import annotations

from daemons.vtpmctl.cli import main

if __name__ == "__main__":
    main()
