# The image of API, worker and commands: docker build --tag autos .
#   docker run autos                       the API, on port 8000
#   docker run autos worker                a worker, which tells how it is on port 9101
#   docker run autos service db upgrade    a command
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS packages
# requirements-extras.lock brings OpenTelemetry and Sentry along: --build-arg LOCK=requirements-extras.lock
ARG LOCK=requirements.lock
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY ${LOCK} ./
RUN python -m venv /venv \
    && /venv/bin/pip install --require-hashes --only-binary=:all: -r ${LOCK}

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="autos" \
      org.opencontainers.image.description="Fetches every document of a Brazilian court case, stores them in S3 and tells its callers by webhook" \
      org.opencontainers.image.licenses="MIT"
# By `container` the doctor knows that its loopback is not the callers'.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 container=oci \
    AUTOS_HOST=0.0.0.0 AUTOS_WORKER_HOST=0.0.0.0 AUTOS_LOG_JSON=true
WORKDIR /app
COPY --from=packages /venv /venv
COPY schema.sql ./
COPY deploy/docker/healthcheck.py ./
COPY service ./service
COPY worker ./worker
RUN python -m compileall -q service worker
# By number, so that Kubernetes can see that it is not root; it owns nothing and writes nothing.
USER 10001:10001
EXPOSE 8000 9101
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "healthcheck.py"]
ENTRYPOINT ["python", "-m"]
CMD ["service"]
