"""The command line as `python -m dure`, and as torchrun starts it."""

from dure.cli.main import main

if __name__ == "__main__":
    main()
