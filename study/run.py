"""`python -m study.run NAME`: runs a study to its answer; the same command again continues it."""

from study.cli import main, run_only

if __name__ == "__main__":
    main("python -m study.run", run_only())
