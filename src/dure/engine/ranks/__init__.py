"""Ranks as processes: started with mpiexec, led by rank 0."""
