# SPDX-License-Identifier: Apache-2.0
"""Evidence about a guest's TPM, and how somebody far away verifies it.

What is here goes from the machine to a verifier (`evidence`, in one versioned file: `evidencefile`)
and between a machine and a Privacy CA (`certificates`, `identity`), and is judged without TPM,
network, files or clock (`verification`). The guest's measurements come as the firmware's log
(`eventlog`).

It lies in `protocol` and not in `tpmcore`, because evidence holds what the manager's agent signed
and what the manager's quotes are over: both are `protocol.manager`, which `tpmcore` may not know.
Imports `protocol.manager`, `protocol.tpm12` and `cryptography`; nothing in `protocol` or `tpmcore`
imports it. Start reading at `verification`.
"""
