"""Tests: one folder a package of dure, and what they share in `support`."""
