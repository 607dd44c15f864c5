"""What the root does: keeps members, asks nodes, sends shards, starts ranks."""
