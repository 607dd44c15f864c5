"""What runs on a node: the agent, its ranks and its shards."""
