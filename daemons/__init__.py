# SPDX-License-Identifier: Apache-2.0
"""Processes: sockets, files, signals, trio.

One folder per command, and `daemons.runtime` for what they share. Nothing imports this package but
tests and benchmarks. Start reading at `daemons.vtpm.cli`.
"""
