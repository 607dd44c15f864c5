"""Other people's programs run against dure, unmodified."""
