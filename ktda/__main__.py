"""``python -m ktda``: the command line."""

from ktda.cli.main import main

if __name__ == "__main__":
    main()
