# The operator's image:   docker build -f docker/operator.Dockerfile -t REGISTRY/phitune/operator:TAG .
#
# BASE_IMAGE is any Debian-like image with Python 3.11 or later and pip. hack/images builds the last stage alone, with
# an image of its own in place of the stage `deps` (--build-context).
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS deps
COPY requirements/operator.txt /requirements/
RUN python3 -m pip install --no-cache-dir --break-system-packages --no-compile --no-deps --require-hashes \
        -r /requirements/operator.txt \
    && PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM deps
ARG REVISION=unknown
LABEL org.opencontainers.image.title="phitune operator" \
      org.opencontainers.image.description="Runs FineTuneJobs: one Kubernetes object to a fine-tuned vision-language model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
ENV HOME=/tmp \
    PYTHONPATH=/opt/phitune \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY LICENSE /opt/phitune/
# The operator builds and checks the trainer's config with the trainer's own classes, and takes no more of it.
COPY trainer/phitune_trainer/__init__.py \
     trainer/phitune_trainer/config.py \
     trainer/phitune_trainer/errors.py \
     trainer/phitune_trainer/exit_codes.py \
     trainer/phitune_trainer/model_config.py \
     trainer/phitune_trainer/problems.py \
     trainer/phitune_trainer/transfer.py \
     trainer/phitune_trainer/yaml_reader.py \
     /opt/phitune/phitune_trainer/
COPY trainer/phitune_trainer/memory /opt/phitune/phitune_trainer/memory
COPY operator/phitune_operator /opt/phitune/phitune_operator
COPY hack/images/imagebuild/sbom.py /usr/share/sbom/
RUN PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash /opt/phitune \
    && python3 /usr/share/sbom/sbom.py phitune/operator "${REVISION}" >/usr/share/sbom/phitune.cdx.json
WORKDIR /tmp
USER 65532:65532
CMD ["python3", "-m", "phitune_operator.main"]
