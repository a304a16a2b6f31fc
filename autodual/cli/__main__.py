"""``python -m autodual.cli``."""

from autodual.cli import main

if __name__ == "__main__":
    main()
