# SPDX-License-Identifier: Apache-2.0
"""`python -m daemons.vtpm`: the command `vtpm`."""

from daemons.vtpm.cli import main

if __name__ == "__main__":
    main()
