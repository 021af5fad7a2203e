# SPDX-License-Identifier: Apache-2.0
"""`python -m daemons.vtpmmgr`: the command `vtpmmgr`."""

from daemons.vtpmmgr.cli import main

if __name__ == "__main__":
    main()
