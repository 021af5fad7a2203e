# SPDX-License-Identifier: Apache-2.0
"""The shim between a guest's TPM software and the guest's vTPM (Xen's xen-tpmfront.ko).

It keeps no secret and looks at no more of a command than the length in its header. Only
`vtpmctl` starts it besides the operator. Start reading at `daemon`; `framing` cuts the byte stream,
`link` holds the connection to the vTPM, `clients` serves whoever connects.
"""
