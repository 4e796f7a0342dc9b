"""`python -m maskora` is the maskora command."""

from maskora.cli import main

if __name__ == "__main__":
    main()
