# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl doctor`: looks for what keeps a suite from serving, and says what to do about it.

`finding` is what comes out; `host`, `places`, `configuration`, `services` and `reach` each look at
one kind of thing; `examination` puts them in order. A check takes what it judges as arguments, so
that a test can provoke each of its findings.
"""
