# The trainer's image:   docker build -f docker/trainer.Dockerfile -t REGISTRY/phitune/trainer:TAG .
#
# BASE_IMAGE is any Debian-like image with Python 3.11 or later and pip. hack/images builds the last stage alone, with
# an image of its own in place of the stage `deps` (--build-context).
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS deps
# Of docker/matrix.toml: trainer.txt for the builds flash and plain, trainer-v100.txt for v100.
ARG LOCK=trainer.txt
COPY requirements/bootstrap.txt requirements/build.txt requirements/trainer.txt requirements/trainer-v100.txt \
     /requirements/
RUN python3 -m pip install --no-cache-dir --break-system-packages --require-hashes -r /requirements/bootstrap.txt \
    && PYC_INVALIDATION_MODE=UNCHECKED_HASH uv pip install --system --break-system-packages --no-cache --no-deps \
        --require-hashes --compile-bytecode --build-constraints /requirements/build.txt \
        -r "/requirements/${LOCK}" \
    && python3 -m pip uninstall --yes --break-system-packages uv

FROM deps
ARG REVISION=unknown
LABEL org.opencontainers.image.title="phitune trainer" \
      org.opencontainers.image.description="Fine-tunes Phi-3.5-vision on one node or many" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# HOME is the one place that a pod with a read-only root file system can write to.
ENV HOME=/tmp \
    PYTHONPATH=/opt/phitune \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY LICENSE /opt/phitune/
COPY trainer/phitune_trainer /opt/phitune/phitune_trainer
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/phitune
WORKDIR /tmp
USER 65532:65532
CMD ["python3", "-m", "phitune_trainer.launch"]
