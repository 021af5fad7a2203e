# SPDX-License-Identifier: Apache-2.0
"""What a TPM is, without sockets, files, clocks or trio.

Imports `protocol.tpm12` (and `protocol.errors`) only. Start reading at `tpmcore.engine`, the
interface that the daemons see, then `tpmcore.tpm12`.
"""
