"""dure: one large language model across the machines you own."""
