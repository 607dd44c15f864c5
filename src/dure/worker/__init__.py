"""The engine's process: started, watched, and started again with the requests that ran."""
