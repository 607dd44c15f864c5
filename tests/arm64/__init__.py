"""Runs dure for arm64 on any Linux: Debian in a folder, its programs emulated (see `run`)."""
