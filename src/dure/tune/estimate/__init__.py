"""What a run will need, before its model is loaded: memory by arithmetic, time by a short measurement."""
