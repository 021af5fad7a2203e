# SPDX-License-Identifier: Apache-2.0
"""The register interface between the hardware TPM and its driver (TCG PC Client TIS 1.2).

`registers` has addresses and bits; `machine` the tables of the chip and `device` its register file
without I/O; `framing` turns register accesses into messages and back; `mmio` carries them over the
socket of a locality page; `durations` says how long a driver waits, `transfer` how it brings a
command in and gets a response out; `driver` is what software uses: `open_tis` and
`TisDriver.transact`.

Imports nothing of ours but `protocol.errors`; only `mmio`, `transfer` and `driver` do I/O. Start
reading at `machine`.
"""
