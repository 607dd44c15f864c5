"""What a machine is: facts, and the module that probes (`probe`)."""
