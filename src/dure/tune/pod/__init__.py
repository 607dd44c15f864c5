"""Tuning on a rented pod: what is asked for at home is learned there, and what it leads to comes home.

`inside` and `worker` run in the pod, all else at home; `job` is what both know.
"""
