"""`python -m distilect` is `distilect`."""

from distilect.cli import main

if __name__ == "__main__":
    main()
