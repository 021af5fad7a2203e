# SPDX-License-Identifier: Apache-2.0
"""What a vTPM and the manager say to each other (Xen's vtpmmgr commands, tags 0x01C1 and 0x01C2).

Bytes only: the split driver carries them. The daemons `vtpm` and `vtpmmgr` import this; it imports
`protocol.errors` and, for structures that the hardware TPM made, `protocol.tpm12`. Start reading at
`framing`, then `messages` (a vTPM's own commands), `management` (those with the ADMIN right),
`passthrough` (raw TPM 1.2 commands on the same device).
"""
