# SPDX-License-Identifier: Apache-2.0
"""Fuzzing: mutated and random commands against the engine and against the front socket.

Start reading at `target` (what is promised of every command), then `mutate` (where commands come
from) and `campaign` (one run). `python -m tests.fuzz` is `make fuzz`; the corpus that mutations
begin with is in tests/corpus, written by `python -m tests.fuzz.record`; `talks` has the valid
conversations that a run has in between, `client` who has them.
"""
