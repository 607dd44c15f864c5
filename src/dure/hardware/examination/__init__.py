"""Examines a machine for `dure doctor`: what its files and its own programs say, as frozen facts.

`machine_root` is the one module that reads files and runs programs; the others know what these say.
Refuses to judge: that is `dure.doctor`.
"""
