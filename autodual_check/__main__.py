"""autodual-check FILE: valid, invalid or unsupported, and why; the exit status is 0, 1 or 2."""

import argparse
import sys

from autodual_check.checking import check


def main() -> None:
    """Check the file that the command line names."""
    parser = argparse.ArgumentParser(prog="autodual-check", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--seconds", type=float, default=3600, help="give up after so long")
    parser.add_argument("--float", action="store_true", help="in floats, rounded outward: faster")
    answer, why = check(*vars(parser.parse_args()).values())
    print(f"{answer}: {why}")
    sys.exit(("valid", "invalid", "unsupported").index(answer))


if __name__ == "__main__":
    main()
