"""Many machines that act as one: who belongs, how the root asks nodes, and what nodes do for it."""
