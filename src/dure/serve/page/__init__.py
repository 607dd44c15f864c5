"""The page that `dure serve` shows to people, and what it asks the server for."""
