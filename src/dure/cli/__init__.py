"""The command line: wiring, configuration, output."""
