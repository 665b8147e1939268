"""The recipe: one YAML file that says everything about a run, typed, frozen, and strict about unknown keys."""
