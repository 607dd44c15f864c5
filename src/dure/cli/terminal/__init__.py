"""What commands share at the terminal: console, configuration, parameters, completion."""
