# SPDX-License-Identifier: Apache-2.0
"""`python -m daemons.hwtpm`: the command `hwtpm`."""

from daemons.hwtpm.cli import main

if __name__ == "__main__":
    main()
