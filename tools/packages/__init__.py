"""Builds and checks the packages that are given to others."""
