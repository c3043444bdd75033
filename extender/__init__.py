"""migfit: right-size GPU pods into NVIDIA MIG slices on Kubernetes."""
