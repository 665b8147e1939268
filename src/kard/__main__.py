"""``python -m kard`` and ``accelerate launch -m kard``."""

from kard.cli import main

if __name__ == "__main__":
    main()
