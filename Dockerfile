# The image runs `serve` (the default) and `migrate`. It works with any uid, without capabilities and
# with a read-only root file system: it reads signing keys from /run/keys and writes only to /tmp.
#
# The base image is a tag here. Pin it to a digest for a release, as docs/release.md explains:
# --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:…
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS packages
COPY requirements/service.txt /tmp/service.txt
# Only wheels, each checked by its hash: no platform needs a compiler.
RUN python -m venv --without-pip /venv \
 && python -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --only-binary :all: --require-hashes --requirement /tmp/service.txt

FROM packages AS code
COPY openapi /app/openapi
COPY db /app/db
COPY service /app/service
COPY handlers /app/handlers
# The label contract.hash must match the contract. Every uid must be able to read the files.
ARG CONTRACT=""
RUN hash="sha256:$(sha256sum /app/openapi/openapi.yaml | cut -d ' ' -f 1)" \
 && if [ -n "${CONTRACT}" ] && [ "${CONTRACT}" != "${hash}" ]; then \
      echo "CONTRACT is ${CONTRACT}, but the hash of openapi.yaml is ${hash}" >&2; exit 1; fi \
 && python -m compileall -q /app \
 && chmod -R a+rX,go-w /app

FROM ${PYTHON_IMAGE}
COPY --from=packages /venv /venv
COPY --from=code /app /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    KEYS_DIR=/run/keys \
    LOG_FORMAT=json
EXPOSE 8080
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]

ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
ARG CONTRACT=""
LABEL org.opencontainers.image.title="Covenant" \
      org.opencontainers.image.description="One OpenAPI contract drives a multi-tenant service and everything that deploys it." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      contract.hash="${CONTRACT}"
