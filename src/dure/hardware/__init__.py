"""What a machine is: facts, and the one module that probes."""
