# Serves an artifact that lies at /artifact:
#   docker build -t hebbsearch .
#   docker run -p 8000:8000 -v "$PWD/artifacts/run-001:/artifact:ro" hebbsearch
# The user 10001 must be able to read it. Each step is one plain command that can be tried without an engine.

# 1. Python. OpenMP and everything else that is not Python comes inside the wheels.
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /app

# 2. The project with its locked dependencies, without those that only the tests need.
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY index index
COPY training training
COPY service service
RUN pip install --constraint requirements.lock .

# 3. Not root, and nothing of the image is writable for it.
RUN useradd --system --uid 10001 --no-create-home hebbsearch
USER 10001

# 4. The service.
ENV HEBBSEARCH_ARTIFACT=/artifact
VOLUME /artifact
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=9)"]
CMD ["uvicorn", "--factory", "service.app:create_app", "--host", "0.0.0.0", "--port", "8000"]
