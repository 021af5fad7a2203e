# SPDX-License-Identifier: Apache-2.0
"""swtpm's command line on this suite: programs that start `swtpm socket` or `swtpm chardev` get a
TPM of ours.

Only `daemons.tpmfront.command` starts it. `command_line` reads what swtpm's users write into
`options`; `process` opens the sockets, before all else that takes time; `startup` finds what else
is needed (identity, manager), and `daemon` runs a vtpm of its own below the same front that guests
of the configuration have.
"""
