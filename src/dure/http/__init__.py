"""HTTP for every server of dure: the server itself, its guards, streams and access log. Knows no model."""
