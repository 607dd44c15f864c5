"""HTTP: the OpenAI API and its dialects, guards, metrics."""
