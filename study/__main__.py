"""`python -m study COMMAND`; `python -m study --help` lists the commands."""

from study.cli import main

if __name__ == "__main__":
    main()
