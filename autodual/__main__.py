"""``python -m autodual``: the command line, without its script."""

from autodual.cli import main

if __name__ == "__main__":
    main()
