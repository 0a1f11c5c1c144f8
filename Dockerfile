# Builds a wheel, then installs it for a user without rights.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY broker broker
COPY agent agent
COPY worker_hooks worker_hooks
COPY examples/photos examples/photos
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && useradd --create-home gpubroker
USER gpubroker
ENTRYPOINT ["gpubroker"]
