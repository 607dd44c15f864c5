"""From a model and machines to a running executor."""
