"""Tuning: makes a model answer as examples do, on the machine that has room for it.

Needs torch, transformers and peft, which are dure's extra `tune`: nothing outside of this package imports
them. Refuses to know a terminal.
"""

import os

# Large tensors then begin at large pages, and what one leaves serves the next. Elsewhere the holes between
# them may take several times what they do themselves (docs/LOG.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it when it allocates first
