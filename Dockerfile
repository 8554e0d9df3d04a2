# The image: `serve` (the default) and `migrate`. Any uid, no capability and a read-only root will
# do; /run/keys holds the signing keys, and nothing is written but below /tmp.
#
# The base is a tag and not a digest, since a digest must be seen before it is written down. Pin it
# with --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:… (docs/release.md says how it is found).
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS packages
COPY requirements/service.txt /tmp/service.txt
# Wheels only, each with its hash: nothing is compiled, on no platform.
RUN python -m venv --without-pip /venv \
 && python -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check \
    --only-binary :all: --require-hashes --requirement /tmp/service.txt

FROM packages AS code
COPY openapi /app/openapi
COPY db /app/db
COPY service /app/service
COPY handlers /app/handlers
# The label must not lie about the contract; readable to all, since the uid is anybody's.
ARG CONTRACT=""
RUN hash="sha256:$(sha256sum /app/openapi/openapi.yaml | cut -d ' ' -f 1)" \
 && if [ -n "${CONTRACT}" ] && [ "${CONTRACT}" != "${hash}" ]; then \
      echo "CONTRACT is ${CONTRACT}, and openapi.yaml is ${hash}" >&2; exit 1; fi \
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
