"""The process: apps, TLS, lifecycle, health, metrics, logs."""
