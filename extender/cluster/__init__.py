"""The cluster as we know it; the only part that talks to the API server."""
