# SPDX-License-Identifier: Apache-2.0
"""The Xen vTPM split driver: shared page, xenbus handshake, both halves, transport.

Spoken between a guest's front and its vTPM, and between a vTPM and the manager. Everything but
`protocol.tpmif.unix` is free of I/O: `Frontend` and `Backend` take a datagram from the peer and
give actions, and only look at the page they were handed. `protocol.tpmif.unix` joins them to a
SOCK_SEQPACKET connection and a sealed memfd. The daemons use only `protocol.tpmif.unix` and
`protocol.tpmif.errors`. Start reading at `page`, then `xenbus`, then `backend`.
"""
