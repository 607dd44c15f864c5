"""Rented GPUs that nobody can forget: pods of a provider, what they cost, and what ends them."""
