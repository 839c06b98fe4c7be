"""`python -m study list | show | describe | plan | run | extend | status | report | data`."""

from study.cli import main

if __name__ == "__main__":
    main()
