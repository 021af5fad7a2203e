# SPDX-License-Identifier: Apache-2.0
"""The hardware TPM as a process: TIS registers on a socket per locality, a TPM 1.2 behind them.

`chip` joins the register file to the engine, `server` serves the locality pages, `store` keeps the
permanent state, `firmware` is what the platform does at power-on, `daemon` puts them together and
`cli` is the command. Start reading at `chip`.
"""
