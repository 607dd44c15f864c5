"""Pure arithmetic about memory and speed. No I/O."""
