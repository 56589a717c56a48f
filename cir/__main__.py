"""`python -m cir` is `cir`."""

from cir.cli import main

if __name__ == "__main__":
    main()
