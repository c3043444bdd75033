"""The decision: pure, standard library only, no I/O."""
