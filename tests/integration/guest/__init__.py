# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest: QEMU boots Debian's cloud kernel, with a vTPM in its TPM TIS device.

`image` makes what is booted, `init` is the guest's first process, `line` speaks with it over a
serial port, `qmp` with QEMU (both by a `linereader`), and `qemu` ties them together. The tests see
only `qemu`.
"""
