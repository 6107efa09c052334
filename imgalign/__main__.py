"""`python -m imgalign` is the `imgalign` command."""

from imgalign.cli import main

if __name__ == "__main__":
    main()
