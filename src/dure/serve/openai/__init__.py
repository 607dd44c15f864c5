"""The HTTP API of OpenAI, and what llama-server adds to it: one module a resource."""
