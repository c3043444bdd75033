# For amd64 and arm64 (GH200 and GB200 hosts): docker buildx build --platform linux/amd64,linux/arm64
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY extender extender
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
COPY constraints.txt ./
# [otel]: with what traces need (docs/how-to/monitor.md).
ARG EXTRAS=""
# The environment has no pip of its own: it is filled from outside.
RUN python -m venv --without-pip /opt/migfit && \
    python -m pip --python /opt/migfit/bin/python install --no-cache-dir --only-binary=:all: \
        --constraint constraints.txt "$(ls /wheels/*.whl)$EXTRAS"

# The same image, so that the environment finds the interpreter it was made with.
FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="migfit" \
      org.opencontainers.image.description="Right-size GPU pods into NVIDIA MIG slices on Kubernetes" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/migfit/migfit" \
      org.opencontainers.image.documentation="https://github.com/migfit/migfit/tree/main/docs"
COPY --from=build /opt/migfit /opt/migfit
# The root file system is read-only in a cluster, and the user below has no home in it.
ENV PATH=/opt/migfit/bin:$PATH \
    HOME=/nonexistent \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
EXPOSE 8443 9090
ENTRYPOINT ["migfit"]
CMD ["serve"]
