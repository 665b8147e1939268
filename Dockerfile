# Serves an export as a user without rights:
#   docker build --tag kard .
#   docker run --rm -p 8000:8000 -v "$PWD/exports/quickstart:/model:ro" kard
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# PIP_ARGUMENTS: for example another index that has a CPU build of torch.
ARG PIP_ARGUMENTS=""
RUN pip install --constraint constraints.txt ${PIP_ARGUMENTS} ".[serve]" && rm -rf /src

WORKDIR /
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin kard
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["kard", "serve", "/model", "--host", "0.0.0.0"]
