# SPDX-License-Identifier: Apache-2.0
"""Side-by-side measurements against swtpm: `make bench`, or `python -m bench --help`.

The whole chain is measured, from the front socket to the engine and back, in the same run as swtpm
and in turns with it, because a machine changes its speed while one measures. Nothing of ours
imports this. Start reading at `__main__`.
"""
