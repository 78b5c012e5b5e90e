"""`python -m federation` is the `concordat` command."""

from federation.cli import main

if __name__ == "__main__":
    main()
