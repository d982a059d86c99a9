# The trainer's image:   docker build -f docker/trainer.Dockerfile --build-arg BUILD=flash \
#                            -t REGISTRY/phitune/trainer:TAG-flash .
#
# BUILD is one of docker/matrix.toml: flash, plain or v100. BASE_IMAGE is any Debian-like image with Python 3.11 or
# later and pip. hack/images builds the last stage alone, with an image of its own in place of the stage `deps`
# (--build-context).
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG BUILD=plain

FROM ${BASE_IMAGE} AS plain
COPY docker/install-packages requirements/bootstrap.txt requirements/build.txt requirements/trainer.txt /requirements/
RUN /requirements/install-packages /requirements/trainer.txt

FROM ${BASE_IMAGE} AS v100
COPY docker/install-packages requirements/bootstrap.txt requirements/build.txt requirements/trainer-v100.txt \
     /requirements/
RUN /requirements/install-packages /requirements/trainer-v100.txt

# Takes hours. The cache keeps each file that was compiled, so that a build which was stopped goes on.
FROM plain AS flash-attn
ARG JOBS=1
# Debian keeps no version but its newest, and the compiler stays behind in this stage.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/*
COPY requirements/cuda-compiler.txt requirements/flash-attn.txt operator/phitune_operator/trainer_builds.toml \
     /requirements/
RUN python3 -m pip install --no-cache-dir --break-system-packages --no-deps --require-hashes \
        -r /requirements/cuda-compiler.txt
COPY docker/flash-attn /requirements/
RUN --mount=type=cache,target=/var/cache/flash-attn,sharing=locked \
    MAX_JOBS=${JOBS} /requirements/flash-attn /requirements/trainer_builds.toml /var/cache/flash-attn \
    && cp /var/cache/flash-attn/wheel/*.whl /

FROM plain AS flash
RUN --mount=type=bind,from=flash-attn,source=/,target=/built \
    python3 -m pip install --no-cache-dir --break-system-packages --no-compile --no-deps /built/*.whl \
    && PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/flash_attn"

FROM ${BUILD} AS deps
ARG BUILD
COPY hack/images/imagebuild/gpu_code.py operator/phitune_operator/trainer_builds.toml /requirements/
RUN python3 /requirements/gpu_code.py /requirements/trainer_builds.toml "${BUILD}" \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM deps
ARG REVISION=unknown
LABEL org.opencontainers.image.title="phitune trainer" \
      org.opencontainers.image.description="Fine-tunes Phi-3.5-vision on one node or many" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# HOME is the one place that a pod with a read-only root file system can write to. USER is for libraries that ask who
# runs them and give up where the uid has no name: torch 2.10 when it is imported.
ENV HOME=/tmp \
    USER=phitune \
    PYTHONPATH=/opt/phitune \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY LICENSE /opt/phitune/
COPY trainer/phitune_trainer /opt/phitune/phitune_trainer
COPY hack/images/imagebuild/sbom.py /usr/share/sbom/
RUN PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash /opt/phitune \
    && python3 /usr/share/sbom/sbom.py phitune/trainer "${REVISION}" >/usr/share/sbom/phitune.cdx.json
WORKDIR /tmp
USER 65532:65532
CMD ["python3", "-m", "phitune_trainer.launch"]
