# SPDX-License-Identifier: Apache-2.0
"""The register interface between the hardware TPM and its driver (TCG PC Client TIS 1.2).

`registers` has addresses and bits; `device` is the chip's register file without I/O; `framing`
turns register accesses into messages and back; `mmio` carries them over the socket of a locality
page; `driver` is what software uses: `open_tis` and `TisDriver.transact`. `control` is the way
around the registers that a platform has: power and status. Imports nothing of ours but
`protocol.errors`; only `mmio`, `driver` and `control` do I/O.

Start reading at `device`, whose tables are the chip.
"""
