"""The node agent (to come)."""
