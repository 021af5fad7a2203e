# SPDX-License-Identifier: Apache-2.0
"""Run by `python -m daemons.tpmfront`."""

from daemons.tpmfront.command import main

if __name__ == "__main__":
    main()
