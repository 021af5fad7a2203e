# SPDX-License-Identifier: Apache-2.0
"""What is said between processes: layouts, states, framing.

Anything of ours may import this package; it imports nothing of ours. Start reading at
`protocol.tpm12.wire`, whose cursor every other decoder here uses.
"""
