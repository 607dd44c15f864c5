"""OpenAI's API, and what llama-server adds to it: one module for each resource."""
