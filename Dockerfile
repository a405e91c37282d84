# Serves artifacts that lie in /artifacts; compose.yaml shows how.
#   docker build -t hebbsearch .
# For a GPU, with the wheels of the usual package index, several gigabytes larger:
#   docker build -t hebbsearch --build-arg TORCH_INDEX= .
# With what a catalogue in PostgreSQL and codes in Milvus need, as compose.cluster.yaml has it:
#   docker build -t hebbsearch-cluster --build-arg EXTRAS=requirements-cluster.lock .
# Each step is one plain command that can be tried without an engine: tests/test_dockerfile.py does.

# 1. The project and its locked dependencies in an environment of their own.
FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/hebbsearch
WORKDIR /src
COPY requirements.lock requirements-cluster.lock pyproject.toml README.md LICENSE ./
# torch alone comes from there, so that nothing else of that index can stand in for what is locked. Its builds
# for CPUs are other files than the lock's, and need nothing for GPUs: of them the version is checked, not the
# hash. All else has its hash.
RUN cp requirements.lock wanted.lock; if [ -n "$TORCH_INDEX" ]; then \
        sed -nE 's/^(torch(vision)?==[^ ]+).*/\1/p' requirements.lock > torch.lock && \
        sed -E '/^(torch|triton|nvidia|cuda)[^ ]*==/,/[^\\]$/d' requirements.lock > wanted.lock && \
        /opt/hebbsearch/bin/pip install --no-deps --index-url "$TORCH_INDEX" -r torch.lock; fi
RUN /opt/hebbsearch/bin/pip install --no-deps --require-hashes -r wanted.lock
RUN if [ -n "$EXTRAS" ]; then /opt/hebbsearch/bin/pip install --no-deps --require-hashes -r "$EXTRAS"; fi
COPY index index
COPY training training
COPY service service
RUN /opt/hebbsearch/bin/pip install --no-deps --no-build-isolation .

# 2. Only what serves: no compiler, no sources, nothing that its user could write to.
FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home hebbsearch
COPY --from=build /opt/hebbsearch /opt/hebbsearch
ENV PATH=/opt/hebbsearch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GOMP_SPINCOUNT=1000
ENV HEBBSEARCH_ARTIFACT=/artifacts/run-001
USER 10001
VOLUME /artifacts
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=9)"]
# Requests under way have so many seconds to be answered; the grace period of an engine must be longer.
CMD ["hebbsearch", "serve", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "20"]
