"""`python -m retrieval.cli` does what the command `retrieval` does."""

from retrieval.cli.main import main

if __name__ == "__main__":
    main()
