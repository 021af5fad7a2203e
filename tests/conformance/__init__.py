# SPDX-License-Identifier: Apache-2.0
"""The engine held against a reference TPM 1.2, command by command.

A case (`cases_*.py`) is a function that sends commands to one machine. `test_conformance.py` runs
each on two of them, the engine in this process and swtpm, each brought to the same state before,
and compares every response (`comparison.py`). What differs is in `differences/`, with the rule
that decides for the engine; anything else that differs fails, and so does an entry that no longer
differs. `document.py` writes docs/conformance.md from all that.

Start reading at `script.py`.
"""
