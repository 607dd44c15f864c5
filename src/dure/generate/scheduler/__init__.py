"""Which request runs in which sequence, and what the next step computes. Pure."""
