# SPDX-License-Identifier: Apache-2.0
"""What operators write: `vtpm.toml` for the machine and `guests.d/NAME.toml` for each guest.

Every key is declared once, in `options`, with its kind, default and help; reading, the finding of
mistakes and the manual pages come from that. Start reading at `options` (the keys) and `folder`
(how a folder is read); `schema` and `kinds` are what a declaration is made of, `values` the small
languages in values, which the command lines share, `findings` what is said of mistakes, `text` how
a file is written.
"""
