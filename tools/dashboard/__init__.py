"""The Grafana dashboard of dure: what it shows (`rows`), how Grafana wants it (`grafana`), and its file."""
