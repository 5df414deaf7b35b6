"""Runs the command as `python -m parakeet.cli`."""

from parakeet.cli import main

if __name__ == "__main__":
    main()
