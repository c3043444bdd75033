"""`migfit demo`: a cluster in one process, the production server beside it, and the picture."""
