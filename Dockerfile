# Three images: docker build -t posthouse .            the server
#               docker build --target gateway -t posthouse-gateway .
#               docker build --target agent -t posthouse-agent .
# BASE may be any image with Python 3.11 to 3.13 and venv. EXTRAS are further extras of the server's package:
# docker build --build-arg EXTRAS=kubernetes -t posthouse .
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS source
WORKDIR /build
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY examples examples
COPY src src

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python3 -m venv /opt/posthouse
COPY requirements-gateway.lock ./
RUN /opt/posthouse/bin/pip install --require-hashes -r requirements-gateway.lock

FROM build AS build-server
COPY requirements.lock ./
# What draws pictures (of `demo` and `simulate`) is a third of the size, and a server draws none.
RUN /opt/posthouse/bin/pip install --require-hashes -r requirements.lock && \
    /opt/posthouse/bin/pip uninstall -y matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing
COPY --from=source /build ./
ARG EXTRAS=""
RUN /opt/posthouse/bin/pip install --no-deps . && \
    if [ -n "${EXTRAS}" ]; then /opt/posthouse/bin/pip install ".[${EXTRAS}]"; fi && \
    /opt/posthouse/bin/pip uninstall -y pip setuptools

FROM build AS build-gateway
COPY --from=source /build ./
RUN /opt/posthouse/bin/pip install --no-deps . && /opt/posthouse/bin/pip uninstall -y pip setuptools

FROM ${BASE} AS base
LABEL org.opencontainers.image.title="Posthouse" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home posthouse && install -d -o posthouse -g posthouse -m 700 /data
ENV PATH=/opt/posthouse/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/posthouse
ENTRYPOINT ["posthouse"]

# Beside a model server; providers also copy the agent from it.
FROM base AS agent
COPY --from=build-gateway /opt/posthouse /opt/posthouse
CMD ["agent"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, socket; socket.create_connection(('127.0.0.1', int(os.environ['WORKER_PORT'])), 2)"]

FROM base AS gateway
COPY --from=build-gateway /opt/posthouse /opt/posthouse
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8081/healthz', timeout=2)"]
CMD ["gateway", "--listen", "0.0.0.0:8081", "--log-format", "json"]

FROM base AS server
COPY --from=build-server /opt/posthouse /opt/posthouse
ENV POSTHOUSE_DATA_DIR=/data \
    POSTHOUSE_SERVER__HOST=0.0.0.0
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
CMD ["serve"]
