# SPDX-License-Identifier: Apache-2.0
"""The vTPM of one guest: a whole TPM 1.2 whose image is encrypted, its key kept by the manager.

Nobody imports it but its own tests; it uses `daemons.runtime`, `tpmcore` and `protocol`. Start
reading at `daemon` (what runs and in which order), then `startup` (new, resumed, powered on) with
`volatility` (which of them) and `factory` (how engines are made), `service` (one request of a
guest), `store` (commit and load) with `selection` (which image counts) and `image` (the bytes of a
slot), `manager_client` (the link to the manager).
"""
