# SPDX-License-Identifier: Apache-2.0
"""What the daemons share: state folders, readiness, sockets, secrets, logging and the host of an
engine.

Only `daemons` may import this package. Start reading at `daemon` (the life of a process) and `host`
(how an engine is driven); `files` and `volatile` are the two kinds of memory.
"""
