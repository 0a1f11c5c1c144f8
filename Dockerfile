# Builds into a virtual environment, then takes that alone: no compiler, no pip cache, no source, a user without rights.
ARG PYTHON=python:3.13.13-slim-bookworm@sha256:355bfa66770995d7e9a0da4b3473b44d0cb451f6b56f5615ad9c39e3c4eca03f

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY broker broker
COPY agent agent
COPY worker_hooks worker_hooks
COPY examples/photos examples/photos
RUN python -m venv --without-pip /opt/gpubroker \
    && pip --python /opt/gpubroker/bin/python install --no-cache-dir --disable-pip-version-check '.[web]'

FROM ${PYTHON}
COPY --from=build /opt/gpubroker /opt/gpubroker
# /secrets: where Compose's first service writes the server's users, whoever the server runs as.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent gpubroker && install -d -m 1777 /secrets
ENV PATH=/opt/gpubroker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
# Whether the ledger can be read; a service that can say more has a check of its own in docker-compose.yml.
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 CMD ["gpubroker", "status"]
ENTRYPOINT ["gpubroker"]
CMD ["--help"]
